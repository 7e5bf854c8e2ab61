"""The learning rate multiplied by a factor per stretch of samples."""

from dataclasses import dataclass
from typing import ClassVar

from ...ranges import require_number
from ..stages import RunPosition, length_samples, periods_passed, require_length
from .schedule import LRSchedule


@dataclass(frozen=True, slots=True)
class Exponential(LRSchedule):
    """η = η0 · γ^(s/T), at every batch; with `staircase` γ^⌊s/T⌋, which is step decay with even steps.

    | symbol | argument | meaning |
    |---|---|---|
    | η0 | lr | first rate |
    | γ | factor | decay over T |
    | T | every_epochs, every_samples | the stretch |
    | s | | samples consumed before the batch |

    Args:
        lr: η0; None takes the optimizer's own at the start.
        factor: γ.
        every_epochs: T in passes over the data.
        every_samples: T in samples; None leaves that to every_epochs.
        staircase: hold the rate through each stretch.

    Raises:
        InputError: a setting out of its range.
    """

    factor: float = 0.95
    every_epochs: float = 1.0
    every_samples: int | None = None
    staircase: bool = False

    name: ClassVar[str] = "exponential"

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        LRSchedule.__post_init__(self)
        require_number("Exponential.factor", self.factor, above=0, most=1)
        require_length("Exponential.every", self.every_epochs, self.every_samples)

    def _share(self, at: RunPosition) -> float:
        length = length_samples(self.every_epochs, self.every_samples, at.train_samples)
        return float(self.factor ** (periods_passed(at.samples, length) if self.staircase else at.samples / length))
