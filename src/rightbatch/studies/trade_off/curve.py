"""The trade between steps and samples: its curve fitted, and what the gradient noise says it should be."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

HUBER = 0.05  # residuals in logs above it count by their size, not their square
WIDEST = 16.0  # the critical batch is sought so far beyond the sizes run
GRID = 241
DOUBTFUL = 2.0  # a critical batch beyond the sizes by this factor is no more than a bound


class TradeOffCurve(NamedTuple):
    """S = S_min (1 + B_crit/b) and E = S b = E_min (1 + b/B_crit), so that (S/S_min - 1)(E/E_min - 1) = 1.

    Attributes:
        least_steps: S_min, the steps of an infinite batch.
        critical: B_crit, the batch at which steps and samples are twice their least.
    """

    least_steps: float
    critical: float

    @property
    def least_samples(self) -> float:
        """E_min = S_min B_crit, the samples of an infinitely small batch."""
        return self.least_steps * self.critical

    def steps(self, size: float) -> float:
        """S at a batch size."""
        return self.least_steps * (1 + self.critical / size)


def fit_curve(sizes: Sequence[float], steps: Sequence[float]) -> TradeOffCurve | None:
    """Fit the curve to the logarithms of the steps, by Huber's loss.

    For every B_crit on a fine geometric grid the best S_min is found by reweighting, then the grid is refined about the
    best. Single points that are far off count little.

    Returns:
        None with fewer than three sizes, or where B_crit lies far beyond the sizes: then the steps are the same at all
        of them, or as good as proportional to 1/b, and it cannot be determined.
    """
    if len(set(sizes)) < 3:
        return None
    b, s = np.asarray(sizes, float), np.log(np.asarray(steps, float))
    low, high = math.log(b.min() / WIDEST), math.log(b.max() * WIDEST)
    for _ in range(3):
        grid = np.linspace(low, high, GRID)
        level = s - np.log1p(np.exp(grid)[:, None] / b)  # each point's log S_min
        centre = np.median(level, axis=1, keepdims=True)
        for _ in range(30):
            weight = HUBER / np.maximum(HUBER, np.abs(level - centre))
            centre = (weight * level).sum(1, keepdims=True) / weight.sum(1, keepdims=True)
        off = np.abs(level - centre)
        loss = np.where(off <= HUBER, off**2 / 2, HUBER * (off - HUBER / 2)).sum(1)
        best, width = int(loss.argmin()), grid[1] - grid[0]
        low, high = grid[best] - 2 * width, grid[best] + 2 * width
    critical = math.exp(grid[best])
    if not b.min() / DOUBTFUL <= critical <= b.max() * DOUBTFUL:
        return None
    return TradeOffCurve(math.exp(float(centre[best, 0])), critical)


def noise_along(steps: Sequence[float], variance: Sequence[float], signal: Sequence[float], size: int) -> float | None:
    """The noise scale averaged over the way to the target as the theory of the curve asks.

    Where the noise scale B = V/s changes on the way, a step at the best rate goes 1/(1 + B/b) as far as one without
    noise. With dS steps of batch b the way is dσ = dS/(1 + B/b) noise-free steps, S_min = ∫dσ and E_min = ∫B dσ, hence

        B_crit = ∫B dσ / ∫dσ = ∫ V/(s + V/b) dS / ∫ s/(s + V/b) dS

    | symbol | argument | meaning |
    |---|---|---|
    | S | steps | step numbers of the looks, rising |
    | V | variance | tr Σ at each |
    | s | signal | ‖g‖² at each; below 0 counts as 0 |
    | b | size | batch size of the run |

    Returns:
        None where no signal stands out of the noise, or with fewer than two looks.

    Reference: McCandlish, Kaplan, Amodei, "An empirical model of large-batch training" (2018), appendix D, for S_min
    and E_min as integrals over the way; written here for a run of one batch size.
    """
    if len(steps) < 2:
        return None
    v, s = np.asarray(variance, float), np.maximum(np.asarray(signal, float), 0.0)
    whole = s + v / size
    if not (np.isfinite(whole).all() and (whole > 0).all() and s.max() > 0):
        return None
    return float(np.trapezoid(v / whole, steps) / np.trapezoid(s / whole, steps))


def at_size(sizes: Sequence[float], values: Sequence[float], size: float) -> float:
    """A value between two sizes, on the straight line of the logarithms; beyond the sizes the last one's."""
    return math.exp(float(np.interp(math.log(size), np.log(sizes), np.log(values))))


def misfit(residuals: "np.ndarray") -> tuple[float, float]:
    """Do the residuals of many fits, rows, leave the curve together, further than their scatter over the rows lets?

    With m columns and n rows, each row fitted with two parameters: the mean residuals have m - 2 degrees of freedom,
    the scatter about them (m - 2)(n - 1).

    Returns:
        (F, its 95 % quantile by Paulson's approximation); nan where there are too few.

    Reference: Paulson, "An approximate normalization of the analysis of variance distribution" (1942).
    """
    n, m = residuals.shape
    if n < 2 or m < 3:
        return math.nan, math.nan
    top, bottom = m - 2, (m - 2) * (n - 1)
    mean = residuals.mean(0)
    within = float(((residuals - mean) ** 2).sum()) / bottom
    ratio = n * float((mean**2).sum()) / top / within if within > 0 else math.nan
    # (1 - 2/9q) x - (1 - 2/9p) over sqrt(2/9q x² + 2/9p) is nearly normal for x = F^(1/3): solved for x.
    p, q, z2 = 2 / (9 * top), 2 / (9 * bottom), 1.6449**2
    a, half, c = (1 - q) ** 2 - z2 * q, (1 - q) * (1 - p), (1 - p) ** 2 - z2 * p
    if a <= 0:
        return ratio, math.nan
    return ratio, ((half + math.sqrt(half**2 - a * c)) / a) ** 3
