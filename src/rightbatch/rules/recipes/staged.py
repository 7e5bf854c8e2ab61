"""Recipes whose batch size grows by a factor at the end of every stage."""

from dataclasses import dataclass

from ...ranges import require_whole
from ..bounds import largest
from ..stages import RunPosition, grown, length_samples, periods_passed, require_length
from .recipe import ScheduleRecipe


@dataclass(frozen=True, slots=True)
class StagedRecipe(ScheduleRecipe):
    """Multiply the batch size by a factor at every stage, b = min(b0 · β^⌊s/T⌋, max_size).

    Args:
        initial: b0.
        factor: β, above 1.
        lr: base learning rate; None takes the optimizer's own at the start.
        every_epochs: T in passes over the data.
        every_samples: T in samples; takes precedence over every_epochs.
        max_size: largest batch size; None is all the data.
    """

    every_epochs: float = 20.0
    every_samples: int | None = None
    max_size: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        ScheduleRecipe.__post_init__(self)
        who = type(self).__name__
        require_length(f"{who}.every", self.every_epochs, self.every_samples)
        if self.max_size is not None:
            require_whole(f"{who}.max_size", self.max_size, least=1)

    def _size(self, at: RunPosition) -> int:
        return grown(self.initial, self.factor, self._stages(at), self._cap(at))

    def _stages(self, at: RunPosition) -> int:
        return periods_passed(at.samples, length_samples(self.every_epochs, self.every_samples, at.train_samples))

    def _cap(self, at: RunPosition) -> int:
        return largest(self.max_size, at.train_samples)
