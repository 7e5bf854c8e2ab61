"""Seesaw: where a schedule would halve the rate, double the batch size and divide the rate by the square root only."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ...citation import Citation
from ...ranges import require_whole
from ..bounds import largest
from ..stages import RunPosition, cosine_cuts, grown, require_total
from .recipe import ScheduleRecipe


@dataclass(frozen=True, slots=True)
class Seesaw(ScheduleRecipe):
    """Multiply the batch size by α whenever cosine decay would have cut the rate by α, and cut the rate by sqrt(α).

        b_k = min(b0 · α^k, max_size),    η_k = η0 · α^-k · sqrt(b_k/b0),    k = ⌊-log_α cos(π/2 · s/S)⌋

    | symbol | argument | meaning |
    |---|---|---|
    | b0 | initial | first batch size; the critical batch size, in the paper |
    | α | factor | the cut |
    | η0 | lr | base learning rate |
    | s | samples | samples consumed before the batch |
    | S | total_samples | samples of the whole run |

    η·sqrt(b) stays constant and η/sqrt(b) falls by α at each cut, as it would by the rate alone: what counts for Adam
    and other normalised steps as long as noise dominates the gradient. As α approaches 1 the run takes 2/π of the steps
    of a fixed batch size. Once the batch size cannot grow any further, the rate takes the whole cut.

    Args:
        initial: b0.
        factor: α, above 1.
        lr: η0; None takes the optimizer's own at the start.
        total_samples: S; None takes it from the run.
        max_size: largest batch size; None is all the data.

    Raises:
        InputError: a setting out of its range; when a run starts, S is not known.

    Reference: Meterez et al. 2025. Differs: the cap is ours; no warm-up before the decay.
    """

    total_samples: int | None = None
    max_size: int | None = None

    name: ClassVar[str] = "seesaw"
    reference: ClassVar[Citation | None] = Citation(
        ("A. Meterez", "D. Morwani", "J. Wu", "C.-A. Oncescu", "C. Pehlevan", "S. Kakade"),
        "Seesaw: Accelerating Training by Balancing Learning Rate and Batch Size Scheduling",
        2025,
        "arXiv 2510.14717",
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        ScheduleRecipe.__post_init__(self)
        for name, value in (("total_samples", self.total_samples), ("max_size", self.max_size)):
            if value is not None:
                require_whole(f"Seesaw.{name}", value, least=1)

    def _size(self, at: RunPosition) -> int:
        return grown(self.initial, self.factor, self._cuts(at), self._cap(at))

    def lr_share(self, at: RunPosition) -> float:
        """α^-k · sqrt(b_k/b0)."""
        cuts, cap = self._cuts(at), self._cap(at)
        growth = grown(self.initial, self.factor, cuts, cap) / min(self.initial, cap)
        return math.sqrt(growth) * math.exp(-cuts * math.log(self.factor))

    def _cuts(self, at: RunPosition) -> int:
        total = require_total("Seesaw", self.total_samples, at.total_samples)
        return cosine_cuts(at.samples / total, self.factor)

    def _cap(self, at: RunPosition) -> int:
        return largest(self.max_size, at.train_samples)
