"""When checkpoints are saved: after evaluations, as far as their time allows, and at a longest interval."""

import math
from collections.abc import Callable
from time import perf_counter

SHARE = 0.02  # of the time of a run


class CheckpointSchedule:
    """Decides when a checkpoint is due.

    An evaluation asks for one, so that its iterate, which may be the best, is soon on the disk: at once if at least
    (1 / SHARE - 1) times the duration of the last checkpoint has passed since then, otherwise as soon as it has. The
    first evaluation is always followed by one. Without evaluations one is due `every_s` seconds after the last,
    whatever it takes.

    Args:
        every_s: longest time between two checkpoints.
        clock: seconds.
    """

    def __init__(self, every_s: float, clock: Callable[[], float] = perf_counter) -> None:
        self.every_s = every_s
        self._clock = clock
        self._asked = False
        self._allowed_s = -math.inf
        self._last_s = clock()

    def ask(self) -> None:
        """There was an evaluation."""
        self._asked = True

    @property
    def due(self) -> bool:
        """Whether to save one now."""
        now_s = self._clock()
        return now_s >= self._last_s + self.every_s or (self._asked and now_s >= self._allowed_s)

    def saved(self, started_s: float) -> None:
        """One was saved, or was not needed, from `started_s` by the same clock until now."""
        self._last_s = self._clock()
        self._allowed_s = self._last_s + (self._last_s - started_s) * (1 / SHARE - 1)
        self._asked = False

    def now(self) -> float:
        """Seconds of the clock."""
        return self._clock()
