"""The learning rate that goes with GeoDamp."""

from dataclasses import dataclass
from typing import ClassVar

from ...ranges import require_number, require_whole
from ..stages import length_samples, periods_passed, require_length, undergrown
from .schedule import Schedule


@dataclass(frozen=True, slots=True)
class GeoDamp(Schedule):
    """Keep the rate while the batch of the rule "geo-damp" grows, then decay it in its place: η0·min(1, max_size/b).

    | symbol | argument | meaning |
    |---|---|---|
    | η0 | lr | first rate |
    | b | initial, factor, every_epochs, every_samples | batch without the cap, initial · factor^⌊s/T⌋ |

    Args:
        lr: η0; None takes the optimizer's own at the start.
        initial: as in the batch rule, like all that follow.
        factor: growth per stage.
        every_epochs: length of a stage in passes over the data.
        every_samples: the same in samples; None leaves that to every_epochs.
        max_size: largest batch; None is all the data.

    Raises:
        InputError: a setting out of its range.

    Reference: S. Sievert, S. Shah, "Improving the convergence of SGD through adaptive batch sizes" (arXiv 1910.08222,
    2021), GeoDamp and its decay above the largest batch.
    """

    initial: int = 128
    factor: float = 2.0
    every_epochs: float = 5.0
    every_samples: int | None = None
    max_size: int | None = None

    name: ClassVar[str] = "geo-damp"

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        Schedule.__post_init__(self)
        require_whole("GeoDamp.initial", self.initial, least=1)
        require_number("GeoDamp.factor", self.factor, above=1)
        require_length("GeoDamp.every", self.every_epochs, self.every_samples)
        if self.max_size is not None:
            require_whole("GeoDamp.max_size", self.max_size, least=1)

    def _share(self, samples: int, train_samples: int, total_samples: int | None) -> float:
        stages = periods_passed(samples, length_samples(self.every_epochs, self.every_samples, train_samples))
        most = train_samples if self.max_size is None else min(self.max_size, train_samples)
        return undergrown(self.initial, self.factor, stages, most)
