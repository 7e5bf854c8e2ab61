"""Downsampling of long series for drawing, without visible loss."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Series = NDArray[np.float64]


def thin(x: ArrayLike, y: ArrayLike, limit: int = 1500) -> tuple[Series, Series]:
    """At most `limit` points of a line: the minimum and maximum of each segment, in order, and both ends.

    Args:
        x: shape (points,).
        y: shape (points,); points that are not finite are omitted.
        limit: maximum number of points returned.

    Returns:
        The remaining x and y, which include every extreme of the whole line.
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
    segments = padded.reshape(-1, size)
    ends = np.array([0, len(ys) - 1])
    chosen = np.concatenate((ends, starts + segments.argmin(axis=1), starts + segments.argmax(axis=1)))
    chosen = np.unique(np.minimum(chosen, len(ys) - 1))
    return xs[chosen], ys[chosen]


def envelope(x: ArrayLike, low: ArrayLike, high: ArrayLike, limit: int = 700) -> tuple[Series, Series, Series]:
    """A band of at most `limit` segments, each with its lowest low and its highest high.

    Args:
        x: shape (points,).
        low: shape (points,); points with nan are omitted, infinite values are not.
        high: like `low`.
        limit: maximum number of segments returned.

    Returns:
        x (the middle of each segment), low and high.
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
    """Mean of y over a centred window that contains `share` of the total weight, so it has no lag.

    Args:
        y: shape (points,); points that are not finite are skipped.
        weights: shape (points,), such as the samples behind each point.
        share: width of the window, as a fraction of the total weight.

    Returns:
        Shape (points,); nan where the window contains no finite point.
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
