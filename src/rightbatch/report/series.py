"""Long series made short enough to draw without losing what the eye would have seen."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Series = NDArray[np.float64]


def thin(x: ArrayLike, y: ArrayLike, limit: int = 1500) -> tuple[Series, Series]:
    """At most `limit` points of a line: the lowest and the highest of each stretch, in order, and both ends.

    Args:
        x: shape (points,).
        y: shape (points,); where it is nan or infinite the point is left out.
        limit: how many points may remain.

    Returns:
        The x and y kept. Every extreme of the whole line is among them.
    """
    xs, ys = np.asarray(x, float), np.asarray(y, float)
    finite = np.isfinite(ys) & np.isfinite(xs)
    xs, ys = xs[finite], ys[finite]
    if len(ys) <= limit:
        return xs, ys
    size = -(-len(ys) // ((limit - 2) // 2))
    starts = np.arange(0, len(ys), size)
    padded = np.full(len(starts) * size, ys[-1])
    padded[: len(ys)] = ys
    stretches = padded.reshape(-1, size)
    ends = np.array([0, len(ys) - 1])
    kept = np.concatenate((ends, starts + stretches.argmin(axis=1), starts + stretches.argmax(axis=1)))
    kept = np.unique(np.minimum(kept, len(ys) - 1))
    return xs[kept], ys[kept]


def envelope(x: ArrayLike, low: ArrayLike, high: ArrayLike, limit: int = 700) -> tuple[Series, Series, Series]:
    """A band made of at most `limit` stretches, each with its lowest low and its highest high.

    Args:
        x: shape (points,).
        low: shape (points,); where it is nan the point is left out, infinite values stay.
        high: as `low`.
        limit: how many stretches may remain.

    Returns:
        x (the middle of each stretch), low and high.
    """
    xs, lows, highs = np.asarray(x, float), np.asarray(low, float), np.asarray(high, float)
    known = ~np.isnan(lows) & ~np.isnan(highs)
    xs, lows, highs = xs[known], lows[known], highs[known]
    if len(xs) <= limit:
        return xs, lows, highs
    starts = np.arange(0, len(xs), -(-len(xs) // limit))
    middles = (starts + np.append(starts[1:], len(xs)) - 1) // 2
    return xs[middles], np.minimum.reduceat(lows, starts), np.maximum.reduceat(highs, starts)


def running_mean(y: ArrayLike, weights: ArrayLike, share: float = 0.02) -> Series:
    """Mean of y over a centred window that holds `share` of the total weight, so it lags behind nowhere.

    Args:
        y: shape (points,); points that are not finite are skipped.
        weights: shape (points,), such as the samples behind each point.
        share: width of the window.

    Returns:
        Shape (points,); nan where the window holds no finite point.
    """
    values, widths = np.asarray(y, float), np.asarray(weights, float)
    finite = np.isfinite(values)
    place = np.concatenate(([0.0], np.cumsum(widths)))
    sums = np.concatenate(([0.0], np.cumsum(np.where(finite, values * widths, 0.0))))
    totals = np.concatenate(([0.0], np.cumsum(np.where(finite, widths, 0.0))))
    middle, half = (place[1:] + place[:-1]) / 2, share * place[-1] / 2
    itself = np.arange(len(values))
    first = np.minimum(np.searchsorted(place, middle - half), itself)
    last = np.maximum(np.searchsorted(place, middle + half, side="right") - 1, itself + 1)
    with np.errstate(invalid="ignore"):
        mean: Series = (sums[last] - sums[first]) / (totals[last] - totals[first])
    return mean
