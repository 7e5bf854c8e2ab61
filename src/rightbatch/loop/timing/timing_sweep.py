"""Timing the hardware with the first batch: micro-batches of growing size, all of which count.

The first batch is drawn in micro-batches of 4, 8, 16, ... samples. Their seconds tell how the time of a step grows
with its samples before the first decision; their gradients are averaged into the first step, so nothing is spent on
timing.
"""

import math
from collections.abc import Generator

WARM_UP = (8, 4)
REPEATS = (2, 3)  # at least, at most
REPEAT_SHARE = 0.05
LEAST_ELAPSED_S = 0.1
ENOUGH_SLOWDOWN = 3.5
TimingSweep = Generator[int, float, list[tuple[int, float]]]


def timing_sweep(most_samples: int, most_size: int) -> TimingSweep:
    """Yield micro-batch sizes and receive their seconds; return (size, seconds) points.

    It doubles from 4 and ends when a micro-batch takes 3.5 times as long as the quickest, which puts the
    half-performance batch well inside the sizes tried, when `most_size` is reached, or when `most_samples` samples
    are drawn. Every size is timed twice and the shorter time taken, for what disturbs a short time only lengthens it;
    a third time is spent while a size costs less than 5 % of the time so far (of 0.1 s at the start).
    """
    elapsed_s, drawn = 0.0, 0
    points: list[tuple[int, float]] = []
    for size in WARM_UP:
        if size <= most_size and drawn + size <= most_samples:
            elapsed_s += yield size
            drawn += size
    size, quickest_s = 4, math.inf
    while size <= most_size:
        times: list[float] = []
        least, most = REPEATS
        while len(times) < most and drawn + size <= most_samples:
            times.append((yield size))
            drawn += size
            elapsed_s += times[-1]
            if len(times) >= least and sum(times) > REPEAT_SHARE * max(elapsed_s, LEAST_ELAPSED_S):
                break
        if not times:
            break
        points.append((size, min(times)))
        quickest_s = min(quickest_s, *times)
        if points[-1][1] > ENOUGH_SLOWDOWN * quickest_s:
            break
        size *= 2
    return points
