"""The learning rate multiplied by a factor per number of samples."""

from dataclasses import dataclass
from typing import ClassVar

from ...citation import Citation
from ...ranges import require_number
from ..stages import RunPosition, length_samples, periods_passed, require_length
from .schedule import LRSchedule


@dataclass(frozen=True, slots=True)
class Exponential(LRSchedule):
    """Decay exponentially, η = η0 · γ^(s/T); with `staircase` η0 · γ^⌊s/T⌋, which is step decay at even intervals.

    | symbol | argument | meaning |
    |---|---|---|
    | η0 | lr | first rate |
    | γ | factor | decay over T |
    | T | every_epochs, every_samples | the interval |
    | s | | samples consumed before the batch |

    Args:
        lr: η0; None takes the optimizer's own at the start.
        factor: γ.
        every_epochs: T in passes over the data.
        every_samples: T in samples; takes precedence over every_epochs.
        staircase: hold the rate within each interval.

    Raises:
        InputError: a setting out of its range.
    """

    factor: float = 0.95
    every_epochs: float = 1.0
    every_samples: int | None = None
    staircase: bool = False

    name: ClassVar[str] = "exponential"
    reference: ClassVar[Citation | None] = None

    def __post_init__(self) -> None:
        """Check the settings."""
        LRSchedule.__post_init__(self)
        require_number("Exponential.factor", self.factor, above=0, most=1)
        require_length("Exponential.every", self.every_epochs, self.every_samples)

    def _share(self, at: RunPosition) -> float:
        length = length_samples(self.every_epochs, self.every_samples, at.train_samples)
        return float(self.factor ** (periods_passed(at.samples, length) if self.staircase else at.samples / length))
