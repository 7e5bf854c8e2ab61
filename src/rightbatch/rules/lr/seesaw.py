"""The learning rate that goes with Seesaw."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ...ranges import require_number, require_whole
from ..stages import cosine_cuts, grown
from .schedule import Schedule


@dataclass(frozen=True, slots=True)
class Seesaw(Schedule):
    """Take sqrt(α) off the rate whenever cosine decay would have cut it by α, the batch rule "seesaw" doing the rest.

        η_k = η0 · α^-k · sqrt(b_k/b0),    k = ⌊-log_α cos(π/2 · s/S)⌋

    which is η0·α^(-k/2) while the batch b_k = b0·α^k may grow, and takes the whole cut from there on.

    | symbol | argument | meaning |
    |---|---|---|
    | η0 | lr | first rate |
    | b0 | initial | first batch |
    | α | factor | the cut |
    | s | samples | samples consumed before the batch |
    | S | total_samples | samples the whole run will consume |

    Args:
        lr: η0; None takes the optimizer's own at the start.
        initial: as in the batch rule, like all that follow.
        factor: α, above 1.
        total_samples: S; None takes it from the run.
        max_size: largest batch; None is all the data.

    Raises:
        InputError: a setting out of its range, or, when a run starts, S not known.

    Reference: A. Meterez, D. Morwani, J. Wu, C.-A. Oncescu, C. Pehlevan, S. Kakade, "Seesaw: Accelerating Training by
    Balancing Learning Rate and Batch Size Scheduling" (arXiv 2510.14717, 2025). The cap is ours.
    """

    initial: int = 128
    factor: float = 2.0
    total_samples: int | None = None
    max_size: int | None = None

    name: ClassVar[str] = "seesaw"
    needs_total: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        Schedule.__post_init__(self)
        require_whole("Seesaw.initial", self.initial, least=1)
        require_number("Seesaw.factor", self.factor, above=1)
        for name, value in (("total_samples", self.total_samples), ("max_size", self.max_size)):
            if value is not None:
                require_whole(f"Seesaw.{name}", value, least=1)

    def _given_total(self, train_samples: int) -> int | None:
        return self.total_samples

    def _share(self, samples: int, train_samples: int, total_samples: int | None) -> float:
        assert total_samples is not None
        cuts = cosine_cuts(samples / total_samples, self.factor)
        most = train_samples if self.max_size is None else min(self.max_size, train_samples)
        growth = grown(self.initial, self.factor, cuts, most) / min(self.initial, most)
        return math.sqrt(growth) * math.exp(-cuts * math.log(self.factor))
