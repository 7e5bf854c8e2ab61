"""How often the noise is measured: as often as a share of the run's time allows, or at fixed steps."""

import math
from collections import deque
from collections.abc import Mapping
from statistics import median
from typing import Any

FIRST_STEP = 1  # the very first is like no other: memory is allocated, hardware timed
LEAST_STEPS = 2  # there must be plain neighbours to compare with
NEIGHBOURS = 2  # on each side
PAIRS = 9
ENOUGH_PAIRS = 3
ASSUMED_OVERHEAD = 0.25
NEAR = 1.5  # sizes within this factor are compared by the sample


class MeasuringInterval:
    """Says which steps are to be measured. It receives the seconds of every step and reads no clock.

    The overhead o is what a measured step takes beyond its plain neighbours of about the same size, by the sample:
    o = t/t' - 1, t' the median of up to two before and two after. Neighbours share their moment, so that a machine that
    is slow for a while does not matter; and being a ratio, o still holds when the batch changes. The median of the last
    nine is believed once there are three. Until then o is taken as 25 %, or as the lesser of two if both were more. The
    first measurement sets things up and tells nothing.

    With one measured step in k, measuring takes the share o/(k + o) of the time: k = ceil(o/budget) keeps it.

    Args:
        budget: share of the run's time that measuring may take.
        every: fixed number of steps between measurements, in place of the budget.
    """

    def __init__(self, budget: float, every: int | None = None) -> None:
        self.budget = budget
        self.every = every
        self._last: int | None = None
        self._overheads: deque[float] = deque(maxlen=PAIRS)
        self._samples = 0  # of the last step, and about as many of those before it
        self._plain_s: deque[float] = deque(maxlen=2 * NEIGHBOURS)  # by the sample
        self._since = 0  # plain steps since the last measured one
        self._waiting_s = math.nan  # by the sample, of a measured step that lacks later neighbours

    def due(self, step: int) -> bool:
        """Whether this step is to be measured, if it can be; under a budget it remains so until one was."""
        if self.every is not None:
            return (step - FIRST_STEP) % self.every == 0
        return step >= (FIRST_STEP if self._last is None else self._last + self.steps)

    @property
    def steps(self) -> int:
        """The present number of steps between measurements."""
        return self.every or max(LEAST_STEPS, math.ceil(self.overhead / self.budget))

    @property
    def overhead(self) -> float:
        """What a measured step takes beyond a plain one, as a share of the latter: measured, or assumed."""
        if len(self._overheads) >= ENOUGH_PAIRS:
            return max(0.0, median(self._overheads))
        return max(ASSUMED_OVERHEAD, min(self._overheads)) if len(self._overheads) == 2 else ASSUMED_OVERHEAD

    @property
    def cost_s(self) -> float:
        """Seconds that a measurement adds at the present size; nan while they are not known."""
        known = len(self._overheads) >= ENOUGH_PAIRS and self._plain_s
        return self.overhead * median(self._plain_s) * self._samples if known else math.nan

    def add(self, step: int, samples: int, seconds: float, measured: bool) -> None:
        """A step on so many samples took so many seconds, with a measurement or without one."""
        near = max(samples, self._samples) <= NEAR * min(samples, self._samples)
        if measured or not near:
            self._compare()
        if not near:
            self._plain_s.clear()
        self._samples = samples
        if not measured:
            self._plain_s.append(seconds / samples)
            self._since += 1
            if self._since == NEIGHBOURS:
                self._compare()
            return
        if self._last is not None:
            self._waiting_s = seconds / samples
        self._last, self._since = step, 0
        while len(self._plain_s) > NEIGHBOURS:
            self._plain_s.popleft()

    def forget(self) -> None:
        """Measure as for the first time: another method has other costs."""
        self._overheads.clear()
        self._last, self._waiting_s = None, math.nan

    def _compare(self) -> None:
        """Hold the last measured step against its neighbours, once."""
        if self._plain_s and math.isfinite(self._waiting_s):
            self._overheads.append(self._waiting_s / median(self._plain_s) - 1)
        self._waiting_s = math.nan

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs."""
        return {name: list(v) if isinstance(v := getattr(self, name), deque) else v for name in _STATE}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        for name in _STATE:
            value = getattr(self, name)
            setattr(self, name, deque(state[name], value.maxlen) if isinstance(value, deque) else state[name])


_STATE = ("_last", "_overheads", "_samples", "_plain_s", "_since", "_waiting_s")
