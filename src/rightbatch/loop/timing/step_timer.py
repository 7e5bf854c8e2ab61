"""Seconds of a step against its samples, from the run's own steps."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from ...measurements import StepTime
from .step_time_model import StepTimeModel
from .timing_sweep import TimingSweep, timing_sweep

UPDATES_TO_TIME = 3
LOAD_STEPS = 15
COMPARE_EVERY_STEPS = 32
LEAST_COMPARED = 32
SWEEP_AGAIN_STEP = 64
UNCERTAIN = 0.5  # standard error over n½; 0.05 to 0.3 after a timing sweep in peace, 0.5 with jitter of 30 %
UNTIMED = 1.4  # a batch so many times larger than all timed is compared at once


class StepTimer:
    """Times the timing sweep of the first batch, then compares sizes within single steps.

    A shared machine may be three times slower for a minute, and the size of that minute's steps would then seem to cost
    three times as much per example as sizes timed before. So times are compared only with times taken within the same
    moment: those of the timing sweep, and every 32 steps those of a batch cut into micro-batches of an eighth, three
    quarters and an eighth, which leaves its gradient as it is but for rounding. Each such set tells the shape of the
    curve, n½; its level is brought to that of the curve so far. How fast the machine is at present, the
    last ordinary steps show.

    Where the timing sweep left n½ uncertain by more than half of it, it was disturbed, and batches too small to be
    compared never mend that: it is repeated, at step 64 or as soon as the epoch has the samples, and the less uncertain
    curve of the two is kept.

    The pieces time forward and backward passes only. The seconds of the update itself belong to every step: those of
    the same step, or, for the timing sweep, of the first few updates (but the very first, which allocates the
    optimizer's state).
    """

    def __init__(self) -> None:
        self._timer = StepTimeModel()
        self._sweep: TimingSweep | None = None
        self._asked = False
        self._points: list[tuple[int, float]] = []
        self._updates_s: list[float] = []
        self._ratios: deque[float] = deque(maxlen=LOAD_STEPS)
        self._compares = False
        self._sweeps = 0

    def wants_sweep(self, step: int) -> bool:
        """Whether the batch of this step should time the hardware."""
        if step < SWEEP_AGAIN_STEP or self._sweeps != 1 or self._points:
            return step == 0
        fit = self._timer.fit()
        return fit is not None and _uncertainty(fit) > UNCERTAIN

    @property
    def pending(self) -> bool:
        """Whether the times of a sweep wait for those of the first updates."""
        return bool(self._points)

    def start_sweep(self, most_samples: int, most_size: int) -> None:
        """Begin to time micro-batches of growing size."""
        self._sweep, self._asked, self._compares = timing_sweep(most_samples, most_size), False, True

    def sweep_on(self, seconds: float) -> int | None:
        """The next size to time, the last one having taken `seconds`; None at the end of the sweep."""
        if self._sweep is None:
            return None
        try:
            size = self._sweep.send(seconds) if self._asked else next(self._sweep)
        except StopIteration as end:
            self._sweep, self._points = None, end.value
            self._sweeps += 1
            self._updates_s.clear()
            return None
        self._asked = True
        return size

    def abandon_sweep(self) -> None:
        """Stop timing micro-batches."""
        self._sweep = None

    def cut(self, step: int, samples: int) -> tuple[int, int, int] | None:
        """The sizes into which the batch of this step is to be cut for a comparison; None when it is not due."""
        fit = self._timer.fit() if self._compares and samples >= LEAST_COMPARED else None
        if fit is None:
            return None
        if step % COMPARE_EVERY_STEPS != COMPARE_EVERY_STEPS // 2 and samples <= UNTIMED * fit.largest:
            return None
        eighth = samples // 8
        return eighth, samples - 2 * eighth, eighth

    def compare(self, pieces: Sequence[tuple[int, float]], update_s: float) -> None:
        """Take in (samples, seconds) of the micro-batches of one step and the seconds of its update."""
        fit = self._timer.fit()
        if fit is None:
            return
        level = math.exp(sum(math.log((s + update_s) / fit.seconds(b)) for b, s in pieces) / len(pieces))
        for samples, seconds in pieces:
            self._timer.add(samples, (seconds + update_s) / level)

    def add(self, samples: int, seconds: float, update_s: float) -> None:
        """One ordinary step took `seconds` in all, `update_s` of them for the optimizer's update."""
        if self._points:
            self._updates_s.append(update_s)
            if len(self._updates_s) >= UPDATES_TO_TIME:
                update = median(self._updates_s)
                self._adopt([(size, pass_s + update) for size, pass_s in self._points])
                self._points = []
        fit = self._timer.fit() if self._compares else None
        if fit is None:
            self._timer.add(samples, seconds)
        elif seconds > 0:
            self._ratios.append(seconds / fit.seconds(samples))

    def _adopt(self, points: Sequence[tuple[int, float]]) -> None:
        """Take the times of a timing sweep; those of a second one in place of all others, if they are better."""
        before = self._timer.fit() if self._sweeps > 1 else None
        timer = self._timer if before is None else StepTimeModel()
        for size, seconds in points:
            timer.add(size, seconds)
        after = timer.fit()
        if before is None or (after is not None and _uncertainty(after) < _uncertainty(before)):
            self._timer = timer
            self._ratios.clear()

    @property
    def _load(self) -> float:
        """How much slower the last steps were than the curve says."""
        return median(self._ratios) if self._ratios else 1.0

    def fit(self) -> StepTime | None:
        """The fitted step time; None while the evidence is thin. Its level is that of the timing sweep's moment."""
        return self._timer.fit()

    def points(self) -> list[tuple[int, float, int]]:
        """(samples, seconds, how often timed) for every size, at the machine's present speed."""
        load = self._load
        return [(samples, seconds * load, count) for samples, seconds, count in self._timer.points()]

    def present(self) -> StepTime | None:
        """The fitted step time at the machine's present speed."""
        fit, load = self._timer.fit(), self._load
        return None if fit is None else replace(fit, fixed_s=fit.fixed_s * load, per_sample_s=fit.per_sample_s * load)

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs; a timing sweep is not continued but left."""
        return {
            "timer": self._timer.state_dict(),
            "points": self._points,
            "updates_s": self._updates_s,
            "ratios": list(self._ratios),
            "compares": self._compares,
            "sweeps": self._sweeps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._timer.load_state_dict(state["timer"])
        self._points = [(int(b), float(s)) for b, s in state["points"]]
        self._updates_s = list(state["updates_s"])
        self._ratios = deque(state["ratios"], maxlen=LOAD_STEPS)
        self._compares, self._sweeps = state["compares"], state["sweeps"]
        self._sweep = None


def _uncertainty(fit: StepTime) -> float:
    return fit.standard_error / fit.half_performance
