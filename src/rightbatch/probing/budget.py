"""The time budget of a probe."""

from collections.abc import Callable

MARGIN = 1.3  # safety factor on predicted times


class TimeBudget:
    """A time budget that starts now.

    Args:
        seconds: the budget.
        clock: returns seconds; only differences matter.
    """

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self.seconds = seconds
        self.clock = clock
        self.reserved_s = 0.0
        self._start_s = clock()

    @property
    def spent_s(self) -> float:
        """Seconds since the start."""
        return self.clock() - self._start_s

    def left_s(self, share: float = 1.0) -> float:
        """Seconds left until `share` of the budget is spent, without the time reserved for cleaning up."""
        return share * (self.seconds - self.reserved_s) - self.spent_s

    def allows(self, predicted_s: float, share: float = 1.0) -> bool:
        """Whether work predicted to take `predicted_s` ends before `share` of the budget is spent."""
        return predicted_s * MARGIN <= self.left_s(share)
