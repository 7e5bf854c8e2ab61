"""What the trials of the trade-off say, put together."""

import math
from collections.abc import Sequence
from functools import cached_property
from statistics import geometric_mean, mean, median

import numpy as np

from ...loop.timing.step_time_model import StepTimeModel
from ...measurements import StepTime
from ..experiment import Result
from .curve import TradeOffCurve, fit_curve, noise_along

WITHIN = 1.1  # of the least time


class TradeOffResults:
    """The results by batch size and seed, the curve of every seed, the noise scale and the time.

    The curve is fitted to seeds whose trials have all been run. Averages are geometric, over the runs that reached the
    target.

    Args:
        results: of trials.
        design: all batch sizes of the design.

    Attributes:
        steps_of: steps by (size, seed); None where the target was not reached.
        sizes: at which a run reached it.
        seeds: with results at all sizes of the design.
        target: the held-out loss.
    """

    def __init__(self, results: Sequence[Result], design: Sequence[int]) -> None:
        self.results = list(results)
        self.steps_of: dict[tuple[int, int], float | None] = {(r["size"], r["seed"]): r["steps"] for r in results}
        self.sizes = sorted({size for (size, _), steps in self.steps_of.items() if steps is not None})
        every = sorted({seed for _, seed in self.steps_of})
        self.seeds = [seed for seed in every if all((size, seed) in self.steps_of for size in design)]
        self.target: float = results[0]["target"] if results else math.nan

    def reached(self, seed: int) -> tuple[list[int], list[float]]:
        """Sizes and steps of one seed."""
        known = [(size, steps) for size in self.sizes if (steps := self.steps_of.get((size, seed))) is not None]
        return [size for size, _ in known], [steps for _, steps in known]

    def steps(self, size: int) -> float:
        """Mean steps."""
        return geometric_mean(s for (b, _), s in self.steps_of.items() if b == size and s is not None)

    def step_s(self, size: int) -> float:
        """Seconds of a step: of one seed's run a disturbed machine may spoil the median, hence the median of them."""
        return float(median(r["step_s"] for r in self.results if r["size"] == size))

    def seconds(self, size: int) -> float:
        """Mean seconds to the target."""
        return self.steps(size) * self.step_s(size)

    def rate(self, size: int) -> float:
        """Mean of the best rates."""
        return geometric_mean(r["rate"] for r in self.results if r["size"] == size and r["rate"])

    def rates(self, seed: int) -> dict[int, float]:
        """The best rate of one seed by size."""
        return {r["size"]: r["rate"] for r in self.results if r["seed"] == seed and r["rate"]}

    @cached_property
    def curves(self) -> dict[int, TradeOffCurve]:
        """The fitted curve by seed, where it can be told."""
        fits = {seed: fit_curve(*self.reached(seed)) for seed in self.seeds}
        return {seed: fit for seed, fit in fits.items() if fit is not None}

    @cached_property
    def curve(self) -> TradeOffCurve | None:
        """The mean curve, of the means of log S_min and log B_crit."""
        if not self.curves:
            return None
        least = geometric_mean(curve.least_steps for curve in self.curves.values())
        return TradeOffCurve(least, geometric_mean(self.criticals))

    @property
    def criticals(self) -> list[float]:
        """B_crit of every seed."""
        return [curve.critical for curve in self.curves.values()]

    @cached_property
    def noise(self) -> dict[int, float]:
        """The noise scale averaged over the way to the target, by seed."""
        found = {}
        for r in self.results:
            if way := r.get("noise"):
                scale = noise_along(way["steps"], _numbers(way["variance"]), _numbers(way["signal"]), r["size"])
                if scale is not None:
                    found[r["seed"]] = scale
        return found

    @property
    def noises(self) -> list[float]:
        """The noise scale of every seed."""
        return list(self.noise.values())

    @property
    def noise_size(self) -> int | None:
        """The batch size of the runs along which the noise was measured."""
        return next((r["size"] for r in self.results if "noise" in r), None)

    @cached_property
    def residuals(self) -> "np.ndarray":
        """Log S minus the seed's own curve: a row for each seed that reached the target at all sizes."""
        rows = []
        for seed, curve in self.curves.items():
            sizes, steps = self.reached(seed)
            if sizes == self.sizes:
                rows.append([math.log(s / curve.steps(b)) for b, s in zip(sizes, steps, strict=True)])
        return np.array(rows).reshape(len(rows), len(self.sizes))

    @cached_property
    def clock(self) -> StepTime | None:
        """The measured t0 + t1 b; None with too few sizes."""
        timer = StepTimeModel()
        for r in self.results:
            timer.add(r["size"], r["step_s"])
        return timer.fit()

    @cached_property
    def fastest(self) -> int | None:
        """The size of least mean time."""
        return min(self.sizes, key=self.seconds, default=None)

    @property
    def fast_range(self) -> tuple[int, int]:
        """The smallest and the largest size about it that take at most 10 % longer, all between them as well."""
        assert self.fastest is not None
        fast = [self.seconds(size) <= WITHIN * self.seconds(self.fastest) for size in self.sizes]
        low = high = self.sizes.index(self.fastest)
        while low > 0 and fast[low - 1]:
            low -= 1
        while high < len(fast) - 1 and fast[high + 1]:
            high += 1
        return self.sizes[low], self.sizes[high]

    @cached_property
    def fastest_in_theory(self) -> float | None:
        """sqrt(B_crit n½), where S_min (1 + B_crit/b) (t0 + t1 b) is least."""
        return math.sqrt(self.curve.critical * self.clock.half_performance) if self.curve and self.clock else None

    def exponents(self, which: str, low: float, high: float) -> list[float]:
        """Exponent of b in "steps" or "rate" between two sizes, of every seed with two sizes there or more."""
        found = []
        for seed in self.seeds:
            values = dict(zip(*self.reached(seed), strict=True)) if which == "steps" else self.rates(seed)
            some = [(b, v) for b, v in sorted(values.items()) if low <= b <= high]
            if len(some) >= 2:
                b, v = np.log(np.array(some)).T
                found.append(float(np.sum((b - mean(b)) * v) / np.sum((b - mean(b)) ** 2)))
        return found


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]
