"""Schedules over a whole run, whose length must be known."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from ...ranges import require_number, require_whole
from ..stages import RunPosition
from .schedule import LRSchedule


@dataclass(frozen=True, slots=True)
class WholeRunSchedule(LRSchedule):
    """A rate that depends on the completed fraction p = s/S of the run, and is η0 · f from its end on.

    Args:
        lr: η0; None takes the optimizer's own at the start.
        final: f, the last rate as a fraction of η0.
        total_epochs: S in passes over the data; total_samples takes precedence.
        total_samples: S in samples; default: the length of the run, if its `epochs` are given.
    """

    final: float = 0.0
    total_epochs: float | None = None
    total_samples: int | None = None

    needs_total: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the settings."""
        LRSchedule.__post_init__(self)
        who = type(self).__name__
        require_number(f"{who}.final", self.final, least=0, most=1)
        if self.total_epochs is not None:
            require_number(f"{who}.total_epochs", self.total_epochs, above=0)
        if self.total_samples is not None:
            require_whole(f"{who}.total_samples", self.total_samples, least=1)

    def _given_total(self, train_samples: int) -> int | None:
        if self.total_samples is None and self.total_epochs is not None:
            return max(1, round(self.total_epochs * train_samples))
        return self.total_samples


@dataclass(frozen=True, slots=True)
class Decay(WholeRunSchedule):
    """A decay η(s) = η0 · (f + (1 - f) · shape(p))."""

    def _share(self, at: RunPosition) -> float:
        assert at.total_samples is not None
        return self.final + (1 - self.final) * self._shape(min(at.samples / at.total_samples, 1.0))

    @abstractmethod
    def _shape(self, part: float) -> float:
        """From 1 at the start to 0 at the end."""
