"""The seconds a probe may take, and whether the next run still fits into them."""

from collections.abc import Callable

MARGIN = 1.3  # predictions may be that much too small


class Budget:
    """Seconds by a clock, from now on.

    Args:
        seconds: all there are.
        clock: returns seconds; only differences count.
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
        """Seconds left until `share` of the budget is spent, what is reserved for tidying up not counted."""
        return share * (self.seconds - self.reserved_s) - self.spent_s

    def allows(self, predicted_s: float, share: float = 1.0) -> bool:
        """Whether work predicted to take `predicted_s` ends before `share` of the budget is spent."""
        return predicted_s * MARGIN <= self.left_s(share)
