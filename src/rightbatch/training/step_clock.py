"""Seconds of a step against its examples, from the run's own steps."""

from collections.abc import Mapping
from statistics import median
from typing import Any

from ..evidence import StepTime
from ..sizing import StepTimer
from .ladder import Ladder, ladder

UPDATES_TO_TIME = 3


class StepClock:
    """Times the ladder of the first batch, then every step.

    The ladder times forward and backward passes only. The seconds of the update itself belong to every step, so the
    ladder's points wait until a few updates have been timed (the very first also allocates the optimizer's state and
    is left out).
    """

    def __init__(self) -> None:
        self._timer = StepTimer()
        self._ladder: Ladder | None = None
        self._asked = False
        self._points: list[tuple[int, float]] = []
        self._updates_s: list[float] = []

    def start_ladder(self, most_samples: int, most_size: int) -> None:
        """Begin to time micro-batches of growing size."""
        self._ladder, self._asked = ladder(most_samples, most_size), False

    def climb(self, seconds: float) -> int | None:
        """The next size to time, the last one having taken `seconds`; None when no ladder is wanted (any longer)."""
        if self._ladder is None:
            return None
        try:
            size = self._ladder.send(seconds) if self._asked else next(self._ladder)
        except StopIteration as end:
            self._ladder, self._points = None, end.value
            return None
        self._asked = True
        return size

    def abandon_ladder(self) -> None:
        """Stop timing micro-batches."""
        self._ladder = None

    def add(self, examples: int, seconds: float, update_s: float) -> None:
        """One ordinary step took `seconds` in all, `update_s` of them for the optimizer's update."""
        self._timer.add(examples, seconds)
        if self._points:
            self._updates_s.append(update_s)
            if len(self._updates_s) >= UPDATES_TO_TIME:
                update = median(self._updates_s)
                for size, pass_s in self._points:
                    self._timer.add(size, pass_s + update)
                self._points = []

    def fit(self) -> StepTime | None:
        """The fitted step time; None while the evidence is thin."""
        return self._timer.fit()

    def points(self) -> list[tuple[int, float, int]]:
        """(examples, seconds, how often timed) for every size."""
        return self._timer.points()

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs; a ladder is not continued but left."""
        return {"timer": self._timer.state_dict(), "points": self._points, "updates_s": self._updates_s}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._timer.load_state_dict(state["timer"])
        self._points = [(int(b), float(s)) for b, s in state["points"]]
        self._updates_s = list(state["updates_s"])
        self._ladder = None
