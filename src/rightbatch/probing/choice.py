"""The batch size, and the range in which it hardly matters, from noise scale and half-performance batch.

Reaching a target takes about S·(1 + B_noise/B) steps, and a step t0 + t1·B seconds, together proportional to

    T(B) = (1 + B_noise/B)·(n½ + B),    least at B* = sqrt(B_noise·n½)

| symbol | argument | meaning |
|---|---|---|
| B_noise | noise_scale | noise scale tr Σ/‖g‖² in samples |
| n½ | half_performance | the batch size that reaches half of the peak speed |
"""

import math
from bisect import bisect_left, bisect_right

from ..measurements import NoiseEstimate

DEFAULT_MULTIPLE = 3.0  # of n½: a batch size that reaches three quarters of the peak speed
TOLERANCE = 1.1
SIGNIFICANT_BITS = 4


def usable_noise(noise: NoiseEstimate) -> float:
    """The noise scale, or its lower bound if the signal is not significantly different from zero; 0 if unknown."""
    return max(0.0, noise.noise_scale if noise.high < math.inf else noise.low)


def combined_noise(noise: NoiseEstimate, along: float | None) -> float:
    """The geometric mean of the noise scale at the initial parameters and the noise scale during training.

    The first is valid for the first step only: too large on a plateau, usually too small elsewhere. The second assumes
    that every step is as long as its noise allows: it is too large where curvature limits the steps, or where momentum
    and averaging remove noise. On a logarithmic scale the mean is equally far from both. If only one is known it is
    used; 0 if neither is.

    Args:
        noise: at the initial parameters; ignored if it has no upper bound and `along` is known.
        along: the noise scale during training; None if unknown.
    """
    return usable_noise(noise) if along is None else halfway(noise.noise_scale, noise.high, along)


def halfway(noise_scale: float, high: float, along: float) -> float:
    """The geometric mean of the initial noise scale, whose upper bound is `high`, and the one during training."""
    return math.sqrt(along * noise_scale) if noise_scale > 0 and high < math.inf else along


def relative_time(noise_scale: float, half_performance: float, samples: float) -> float:
    """T(B), the relative time to the same result."""
    return (1 + noise_scale / samples) * (half_performance + samples)


def sweet_spot(noise_scale: float, half_performance: float) -> float:
    """B*."""
    return math.sqrt(noise_scale * half_performance)


def range_within(noise_scale: float, half_performance: float, best: float) -> tuple[float, float]:
    """The sizes with T(B) <= 1.1·T(best): between the roots of B² - (1.1·T(best) - B_noise - n½)·B + B_noise·n½ = 0."""
    half_b = (TOLERANCE * relative_time(noise_scale, half_performance, best) - noise_scale - half_performance) / 2
    product = noise_scale * half_performance
    upper = half_b + math.sqrt(max(0.0, half_b * half_b - product))
    return product / upper, upper


def rounded(samples: float) -> int:
    """Round to four significant bits, a change of at most 6 %: 203 becomes 208."""
    unit = 1 << max(0, math.floor(math.log2(max(1.0, samples))) + 1 - SIGNIFICANT_BITS)
    return max(1, round(samples / unit) * unit)


def choose(
    noise: NoiseEstimate, half_performance: float, smallest: int, largest: int, along: float | None = None
) -> tuple[int, int, int]:
    """The best batch size and the range within 10 % of its time, limited to `smallest` to `largest`.

    If the noise scale is unknown, the size that reaches three quarters of the peak speed.

    Args:
        noise: at the initial parameters.
        half_performance: n½.
        smallest: smallest size allowed.
        largest: largest size allowed.
        along: the noise scale during training, if known.

    Returns:
        (size, low, high).
    """
    scale = combined_noise(noise, along)
    if along is None and scale == 0 and noise.high == math.inf:
        scale = DEFAULT_MULTIPLE**2 * half_performance
    size = min(max(rounded(sweet_spot(scale, half_performance)), smallest), largest)
    low, high = range_within(scale, half_performance, size)
    return size, min(max(math.ceil(low), smallest), size), max(min(math.floor(high), largest), size)


def settle(wanted: tuple[int, int, int], tried: list[int]) -> tuple[int, int, int]:
    """Restrict the choice to sizes that have been run: the nearest size, and the widest range inside the wanted one.

    Args:
        wanted: (size, low, high).
        tried: the sizes run, in increasing order.
    """
    size = min(tried, key=lambda samples: abs(math.log(samples / wanted[0])))
    low = tried[min(bisect_left(tried, wanted[1]), len(tried) - 1)]
    high = tried[max(bisect_right(tried, wanted[2]) - 1, 0)]
    return size, min(low, size), max(high, size)
