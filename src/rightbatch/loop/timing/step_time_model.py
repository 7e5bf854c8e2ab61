"""How the seconds of a step grow with its samples: t(b) = t0 + t1·b, fitted to the run's own steps."""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from ...errors import InputError
from ...measurements import StepTime

WINDOW = 31  # times remembered per size: odd, so that the median is one of them
SPACING = 1 / math.log(1.05)  # sizes within about 5 % count as one
LEAST_SIZES = 3
LEAST_RANGE = 4.0  # largest size over smallest
LINE_ERROR = 0.05  # no hardware keeps to a straight line better than this
SPREAD, SPREAD_TIMES = 0.1, 5  # relative spread assumed of one time, and how many times that assumption is worth
MOST_HALF_PERFORMANCE = 16  # in largest sizes: beyond, the rise over the timed sizes drowns in LINE_ERROR
REFIT_TIMES = 8  # a fit is kept until so many new times, fewer while there are few


class Centre(NamedTuple):
    """The middle of the times of one size."""

    samples: int
    seconds: float
    times: int
    weight: float


class StepTimeModel:
    """Gathers seconds of steps by their samples and fits t0 and t1; reads no clock.

    Per size, sizes within about 5 % counting as one, the last 31 times are remembered and their median taken, which up
    to a third of slow outliers on a shared machine barely moves. The fit minimises Σ w_i·((t0 + t1·b_i)/t_i - 1)² over
    the medians.

    | symbol | name | meaning |
    |---|---|---|
    | t0 | fixed_s | seconds of a step whatever its size |
    | t1 | per_sample_s | seconds per example |
    | n½ | half_performance | t0/t1: the samples at which half of the peak speed is reached |
    | b_i, t_i | samples, seconds | medians of one size |
    | w_i | weight | 1/(0.05² + (π/2)·σ_i²/n_i), the variance of a straight line's error and of a median of n_i times |
    | σ_i | | relative spread of the times, from the median absolute deviation, drawn to 10 % while times are few |

    n½ is kept within 1 and 16 times the largest size: where the seconds do not rise with the samples, no larger value
    can be told. Its standard error is that of the ratio to first order (delta method), from the residuals.

    Reference: R. W. Hockney, "The Science of Computer Benchmarking" (SIAM 1996), n½ and r∞ of a pipeline; the weights
    and limits are ours.
    """

    def __init__(self) -> None:
        self._windows: dict[int, deque[tuple[int, float]]] = {}
        self._centres: dict[int, Centre] = {}
        self._fit: StepTime | None = None
        self._until_refit = 0

    def add(self, samples: int, seconds: float) -> None:
        """Remember that a step on `samples` samples took `seconds`; times not positive and finite are ignored.

        Raises:
            InputError: fewer than 1 sample.
        """
        if samples < 1:
            raise InputError(f"A step on {samples} samples cannot be timed: give at least 1.")
        if not 0.0 < seconds < math.inf:
            return
        size = round(math.log(samples) * SPACING)
        window = self._windows.get(size)
        if window is None:
            window = self._windows[size] = deque(maxlen=WINDOW)
            self._until_refit = 0
        window.append((samples, seconds))
        self._centres.pop(size, None)
        self._until_refit -= 1

    def fit(self) -> StepTime | None:
        """The fitted step time, renewed once enough new times are in.

        Returns:
            None while fewer than three sizes were timed or the largest is less than four times the smallest.
        """
        if self._until_refit <= 0 and len(self._windows) >= LEAST_SIZES:
            centres = self._all_centres()
            self._fit = _fit(centres)
            self._until_refit = max(1, min(REFIT_TIMES, sum(centre.times for centre in centres) // 8))
        return self._fit

    def points(self) -> list[tuple[int, float, int]]:
        """(samples, median seconds, times remembered) of every size, smallest first."""
        return sorted((c.samples, c.seconds, c.times) for c in self._all_centres())

    def state_dict(self) -> dict[str, Any]:
        """Everything as plain types; loading it continues bit for bit."""
        return {
            "windows": [[list(time) for time in window] for window in self._windows.values()],
            "fit": None if self._fit is None else asdict(self._fit),
            "until_refit": self._until_refit,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self._windows.clear()
        self._centres.clear()
        for window in state["windows"]:
            for samples, seconds in window:
                self.add(samples, seconds)
        self._fit = None if state["fit"] is None else StepTime(**state["fit"])
        self._until_refit = state["until_refit"]

    def _all_centres(self) -> list[Centre]:
        for size, window in self._windows.items():
            if size not in self._centres:
                self._centres[size] = _centre(window)
        return [self._centres[size] for size in self._windows]


def _centre(window: deque[tuple[int, float]]) -> Centre:
    count = len(window)
    middle = (count - 1) // 2
    seconds = sorted(time for _, time in window)
    median = seconds[middle]
    deviation = 1.4826 * sorted(abs(time - median) for time in seconds)[middle] / median
    spread2 = (count * deviation**2 + SPREAD_TIMES * SPREAD**2) / (count + SPREAD_TIMES)
    weight = 1 / (LINE_ERROR**2 + math.pi / 2 * spread2 / count)
    return Centre(sorted(samples for samples, _ in window)[middle], median, count, weight)


def _fit(centres: list[Centre]) -> StepTime | None:
    if len(centres) < LEAST_SIZES:
        return None
    smallest, largest = min(c.samples for c in centres), max(c.samples for c in centres)
    if largest < LEAST_RANGE * smallest:
        return None
    # Σ w·((t0 + t1·b)/t - 1)² is a straight-line fit with weights w/t²; centring it leaves nothing to cancel.
    points = [(c.samples, c.seconds, c.weight / c.seconds**2) for c in centres]
    total = sum(w for _, _, w in points)
    middle, level = sum(w * b for b, _, w in points) / total, sum(w * t for _, t, w in points) / total
    leverage = sum(w * (b - middle) ** 2 for b, _, w in points)
    t1 = sum(w * (b - middle) * (t - level) for b, t, w in points) / leverage
    t0 = level - t1 * middle
    most = float(MOST_HALF_PERFORMANCE * largest)
    if t1 <= 0 or not 1 <= t0 / t1 <= most:
        # The error is a convex quadratic, so its least value within the limits lies on the limit crossed: t0 = n·t1.
        limit = 1.0 if t0 < t1 else most
        t1 = sum(w * (limit + b) * t for b, t, w in points) / sum(w * (limit + b) ** 2 for b, _, w in points)
        t0 = limit * t1
    half = t0 / t1
    residual2 = sum(w * (t0 + t1 * b - t) ** 2 for b, t, w in points)
    # The weights claim a variance of 1 per residual; this counts as one residual, so that no exact fit is certain.
    variance = (residual2 + 1) / (len(centres) - 1)
    error2 = variance * (1 / total + (half + middle) ** 2 / leverage) / t1**2
    return StepTime(t0, t1, half, math.sqrt(error2), len(centres), smallest, largest)
