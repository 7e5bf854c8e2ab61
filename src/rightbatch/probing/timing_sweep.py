"""The timing sweep: measured step times over batch size."""

import random
from collections.abc import Iterable
from itertools import takewhile
from statistics import median_low

from ..errors import InputError
from ..loop.timing.step_time_model import LEAST_SIZES, WINDOW, StepTimeModel
from ..measurements import StepTime
from .budget import TimeBudget
from .memory import Memory
from .steps import ProbeSteps

FIRST_WARM_UP_RUNS = 3  # the first steps of a process also initialize libraries and the optimizer's state
QUICK_S = 0.1  # steps this fast are repeated even if time is up, to report how long a probe needs
LEAST_REPEATS = 3
MANY = 10**9
LAST_STEP = 1.2  # the whole data set is a size of its own if larger than the last power of two by this factor


class TimingSweep:
    """Times steps of increasing size until data, memory or time run out, then repeats all sizes in random order.

    The first run of a size is a warm-up and does not count. Every round of repeats has a new random order, so that a
    machine whose speed changes favours no size.

    Args:
        steps: the steps to time.
        budget: a run starts only if it is predicted to end within the budget.
        seed: seed of the order of the repeats.
    """

    def __init__(self, steps: ProbeSteps, budget: TimeBudget, seed: int) -> None:
        self._steps = steps
        self._budget = budget
        self._random = random.Random(seed)
        self._warm_s: dict[int, float] = {}
        self._times_s: dict[int, list[float]] = {}
        self._grid: list[int] = []
        self._memory = Memory(steps.device)
        self._ended_by = ""

    @property
    def limited_by(self) -> str:
        """Why no larger size was timed: "data", "memory" or "time"."""
        untimed = self._ended_by == "data" and self.sizes[-1:] != self.warmed_up[-1:]
        return "time" if untimed else self._ended_by

    @property
    def sizes(self) -> list[int]:
        """The batch sizes that were timed, smallest first."""
        return sorted(size for size, times in self._times_s.items() if times)

    @property
    def warmed_up(self) -> list[int]:
        """The batch sizes that were run at least once, smallest first."""
        return sorted(self._warm_s)

    def points(self) -> tuple[tuple[int, float, int], ...]:
        """(samples, median seconds, number of timings) for every size."""
        return tuple((size, median_low(times), len(times)) for size in self.sizes if (times := self._times_s[size]))

    def expected_s(self, size: int) -> float:
        """Expected seconds of a step of `size`; for a size not yet run, an upper bound by proportion."""
        if self._times_s.get(size):
            return median_low(self._times_s[size])
        if size in self._warm_s:
            return self._warm_s[size]
        smaller = [tried for tried in self._warm_s if tried < size]
        if smaller:
            return self.expected_s(max(smaller)) * size / max(smaller)
        return self.expected_s(min(self._warm_s)) if self._warm_s else 0.0

    def sweep(self, share: float) -> None:
        """Run 1, 2, 4, ... samples and finally the whole data set, once each, until data, memory or time run out.

        Raises:
            InputError: the smallest batch does not fit into memory.
        """
        first = self._first_size()
        self._grid = _grid(first, self._steps.train_samples)
        self._memory = Memory(self._steps.device)
        # A size runs once to warm up and once to be timed, and so do all before it: twice its time. Three sizes are the
        # minimum for a fit; more must leave time to repeat all.
        self._continue(share, runs=4, sizes=LEAST_SIZES)
        if not self._ended_by:
            self._continue(share, runs=2 * (1 + LEAST_REPEATS))

    def sweep_further(self) -> None:
        """Spend the rest of the budget on still larger sizes, two runs each."""
        if self.limited_by == "time":
            self._continue(1.0, runs=2, time_at_once=True)

    def repeat(self, sizes: Iterable[int], share: float, most: int = WINDOW) -> None:
        """Time every size `most` times, or as often as its part of the remaining time allows, at least three times."""
        order = list(sizes)
        fair_s = self._budget.left_s(share) / max(1, len(order))
        ran = True
        while ran:
            ran = False
            self._random.shuffle(order)
            for size in list(order):
                if size not in self._warm_s and not (
                    self._budget.allows(2 * self.expected_s(size), share) and self._warm_up(size)
                ):
                    order.remove(size)
                    continue
                if size not in self._times_s:
                    continue
                times, expected_s = self._times_s[size], self.expected_s(size)
                enough = len(times) >= LEAST_REPEATS and sum(times) + expected_s > fair_s
                if enough or len(times) >= most or not self._budget.allows(expected_s, share):
                    continue
                seconds = self._timed(size)
                if seconds is None:
                    self._discard_from(size)
                    order = [smaller for smaller in order if smaller < size]
                    continue
                times.append(seconds)
                ran = True

    def fit(self) -> StepTime | None:
        """The line through the medians; None if fewer than three sizes with a ratio of four have been timed."""
        timer = StepTimeModel()
        for size in self.sizes:
            for seconds in self._times_s[size]:
                timer.add(size, seconds)
        return timer.fit()

    def _continue(self, share: float, runs: int, sizes: int = MANY, time_at_once: bool = False) -> None:
        """Run larger sizes until there are `sizes` of them, or data, memory or time for the next one run out."""
        while self._grid and len(self._warm_s) < sizes:
            size = self._grid[0]
            if not self._budget.allows(runs * self.expected_s(size), share):
                self._ended_by = "time"
                return
            if not self._memory.allows(max(self._warm_s), size) or not self._warm_up(size):
                self._ended_by = "memory"
                return
            self._grid.pop(0)
            if time_at_once:
                self.repeat([size], share, most=1)
        if not self._grid:
            self._ended_by = "data"

    def _discard_from(self, size: int) -> None:
        """Discard sizes that did not always fit, so that none of them is recommended."""
        for larger in [tried for tried in self._times_s if tried >= size]:
            del self._times_s[larger]
        self._ended_by = "memory"

    def _first_size(self) -> int:
        """1, or 2 if the model cannot be trained on one sample, as with BatchNorm."""
        try:
            fits = self._warm_up(1, FIRST_WARM_UP_RUNS)
            size = 1
        except (RuntimeError, ValueError, IndexError) as error:
            if isinstance(error, InputError):
                raise
            self._steps.clear()
            fits = self._warm_up(2, FIRST_WARM_UP_RUNS)
            size = 2
        if not fits:
            raise InputError(
                f"A training step on {size} sample{'s' * (size > 1)} runs out of memory on {self._steps.device}: "
                "use a smaller model, or free memory."
            )
        return size

    def _warm_up(self, size: int, runs: int = 1) -> bool:
        for _ in range(runs):
            seconds = self._timed(size)
            if seconds is None:
                return False
            self._warm_s[size] = seconds
            if seconds > QUICK_S and not self._budget.allows(seconds):
                break
        self._times_s[size] = []
        return True

    def _timed(self, size: int) -> float | None:
        start_s = self._budget.clock()
        return self._budget.clock() - start_s if self._steps.fits(size) else None


def _grid(first: int, most: int) -> list[int]:
    """The sizes after `first`: powers of two times `first`, and `most` if it is well above the last of them."""
    sizes = list(takewhile(lambda size: size <= most, (first << k for k in range(most.bit_length()))))
    return sizes[1:] + ([most] if most >= LAST_STEP * sizes[-1] else [])
