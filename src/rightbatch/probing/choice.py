"""From noise scale and half-performance batch to a batch size and the range in which the choice hardly matters.

Reaching a target takes about S·(1 + B_noise/B) steps, and a step t0 + t1·B seconds, together proportional to

    T(B) = (1 + B_noise/B)·(n½ + B),    least at B* = sqrt(B_noise·n½)

| symbol | argument | meaning |
|---|---|---|
| B_noise | noise_scale | noise scale tr Σ/‖g‖² in samples |
| n½ | half_performance | the batch at which half of the peak speed is reached |
"""

import math
from bisect import bisect_left, bisect_right

from ..measurements import NoiseEstimate

WORTH_IT_ANYHOW = 3.0  # in n½: a batch at three quarters of the peak speed
TOLERANCE = 1.1
SIGNIFICANT_BITS = 4


def usable_noise(noise: NoiseEstimate) -> float:
    """The noise scale to reckon with: what it is at least where no signal is told from zero; 0 if not even that."""
    return max(0.0, noise.noise_scale if noise.high < math.inf else noise.low)


def noise_to_reckon_with(noise: NoiseEstimate, along: float | None) -> float:
    """Between the noise scale at the parameters given and the one along the way: their geometric mean.

    The first is that of the first step only: too large on a plateau, otherwise mostly too small. The second takes every
    step to be as long as its noise allows, and is too large where curvature limits the steps, or momentum and averaging
    remove noise. Halfway between them, on the logarithm, a truth at either end is equally far. Where there is only one
    it is taken; 0 where nothing is known.

    Args:
        noise: at the parameters given; one that is not told from infinity yields to the other.
        along: the way to a trained model; None where it is not known.
    """
    return usable_noise(noise) if along is None else halfway(noise.noise_scale, noise.high, along)


def halfway(noise_scale: float, high: float, along: float) -> float:
    """The geometric mean of the noise scale at the start, `high` being its upper end, and that along the way."""
    return math.sqrt(along * noise_scale) if noise_scale > 0 and high < math.inf else along


def relative_time(noise_scale: float, half_performance: float, samples: float) -> float:
    """T(B), the time to the same result up to a factor."""
    return (1 + noise_scale / samples) * (half_performance + samples)


def sweet_spot(noise_scale: float, half_performance: float) -> float:
    """B*."""
    return math.sqrt(noise_scale * half_performance)


def range_within(noise_scale: float, half_performance: float, best: float) -> tuple[float, float]:
    """Between which sizes T(B) <= 1.1·T(best): the roots of B² - (1.1·T(best) - B_noise - n½)·B + B_noise·n½ = 0."""
    half_b = (TOLERANCE * relative_time(noise_scale, half_performance, best) - noise_scale - half_performance) / 2
    product = noise_scale * half_performance
    upper = half_b + math.sqrt(max(0.0, half_b * half_b - product))
    return product / upper, upper


def rounded(samples: float) -> int:
    """To the nearest number with four significant bits, at most 6 % away: 208, not 203."""
    unit = 1 << max(0, math.floor(math.log2(max(1.0, samples))) + 1 - SIGNIFICANT_BITS)
    return max(1, round(samples / unit) * unit)


def choose(
    noise: NoiseEstimate, half_performance: float, smallest: int, largest: int, along: float | None = None
) -> tuple[int, int, int]:
    """The batch size wanted and the range within 10 % of its time, all within `smallest` and `largest`.

    Where nothing is known of the noise, the size at which three quarters of the peak speed is reached.

    Args:
        noise: at the parameters given.
        half_performance: n½.
        smallest: size allowed.
        largest: size allowed.
        along: the noise scale along the way to a trained model, where it is known.

    Returns:
        (size, low, high).
    """
    scale = noise_to_reckon_with(noise, along)
    if along is None and scale == 0 and noise.high == math.inf:
        scale = WORTH_IT_ANYHOW**2 * half_performance
    size = min(max(rounded(sweet_spot(scale, half_performance)), smallest), largest)
    low, high = range_within(scale, half_performance, size)
    return size, min(max(math.ceil(low), smallest), size), max(min(math.floor(high), largest), size)


def settle(wanted: tuple[int, int, int], tried: list[int]) -> tuple[int, int, int]:
    """The wanted size and range cut to sizes that were run: the nearest size, the widest range inside the wanted one.

    Args:
        wanted: (size, low, high).
        tried: the sizes run, ascending.
    """
    size = min(tried, key=lambda samples: abs(math.log(samples / wanted[0])))
    low = tried[min(bisect_left(tried, wanted[1]), len(tried) - 1)]
    high = tried[max(bisect_right(tried, wanted[2]) - 1, 0)]
    return size, min(low, size), max(high, size)
