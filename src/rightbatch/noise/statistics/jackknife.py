"""The measurement of one batch, with standard errors, from per-example norms and inner products."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ...measurements import NO_INTERVALS, UNKNOWN, Interval, Intervals, Measurement, StandardErrors
from .intervals import bound, skewed_mean, t_quantile


def jackknife(norms2: Tensor, products: Tensor, gradient_norm2: float, reason: str = "") -> Measurement:
    """V̂ and ŝ of a batch, with exact jackknife standard errors and 90 % intervals, no sample left out in earnest.

    Without sample i, ‖Σ g - g_i‖² = b² ‖ḡ‖² - 2b p_i + n_i; with it every leave-one-out value follows, and the error
    of θ is sqrt((b-1)/b Σ_i (θ_(i) - θ_(·))²).

    | symbol | argument | meaning |
    |---|---|---|
    | n_i = ‖g_i‖² | norms2 | shape (b,), float64 |
    | p_i = ⟨g_i, ḡ⟩ | products | shape (b,), float64 |
    | ‖ḡ‖² | gradient_norm2 | of the mean gradient |

    The variance of ŝ has a part 4 gᵀΣg/b of first order and a part 2 tr Σ²/b² of second order, which the jackknife
    counts twice and which is all there is where the noise hides the signal. From n_i and p_i the two cannot be told
    apart: the standard error stays on the safe side, by up to √2, and the interval takes a share of N/(s⁺ + N), N =
    V̂/b, of the variance to be half of second order, so that its error is right to 15 % either way. Student's t has
    2b/(κ - 1) degrees of freedom, κ the kurtosis over samples, b - 1 at most.

    Returns:
        The errors are nan for b = 2 and the intervals say nothing; the error of the noise scale is infinite where V̂/ŝ
        is not finite throughout.

    Reference: Efron, "The jackknife, the bootstrap and other resampling plans" (1982), equation 3.3; Efron, Stein,
    "The jackknife estimate of variance" (1981), for its bias. The share is this project's.
    """
    b = len(norms2)
    total = norms2.sum()
    variance = ((total - b * gradient_norm2) / (b - 1)).item()
    signal = gradient_norm2 - variance / b
    errors, intervals = UNKNOWN, NO_INTERVALS
    if b > 2:
        left = b - 1
        mean2 = (b * b * gradient_norm2 - 2 * b * products + norms2) / left**2
        v = (total - norms2 - left * mean2) / (left - 1)
        s = mean2 - v / left
        bounded = signal > 0 and bool((s > 0).all())
        errors = StandardErrors(_error(v), _error(s), _error(v / s) if bounded else math.inf)
        intervals = _intervals(v, s, variance, signal, errors)
    return Measurement(
        b, gradient_norm2, variance, signal, errors, method="per-example", reason=reason, intervals=intervals
    )


def jackknife_micro_batches(found: Measurement, sizes: Sequence[int], norms2: Tensor, products: Tensor) -> Measurement:
    """What micro-batches have measured, with the jackknife over them: each is a sample with m̄ times less noise.

    Micro-batches of uneven sizes m_j count as m_j/m̄ g_j, whose mean is ḡ and whose covariance is Σ/m̄ but for the square
    of the unevenness.

    Args:
        found: the measurement.
        sizes: m_j; m̄ is their mean.
        norms2: ‖g_j‖², shape (J,), float64.
        products: ⟨g_j, ḡ⟩, shape (J,), float64.

    Returns:
        Errors nan and intervals that say nothing for two micro-batches.
    """
    size = sum(sizes) / len(sizes)
    weights = torch.tensor(sizes, dtype=torch.float64) / size
    each = jackknife(weights.square() * norms2, weights * products, found.gradient_norm2)
    errors, intervals = each.standard_error, each.intervals
    return replace(
        found,
        standard_error=StandardErrors(size * errors.variance, errors.signal, size * errors.noise_scale),
        intervals=Intervals(
            Interval(*(size * limit for limit in intervals.variance)),
            intervals.signal,
            Interval(*(size * limit for limit in intervals.noise_scale)),
        ),
    )


def _intervals(v: Tensor, s: Tensor, variance: float, signal: float, errors: StandardErrors) -> Intervals:
    """From the leave-one-out values."""
    b = len(v)
    dv, ds = v.mean() - v, s.mean() - s  # in proportion to what each sample adds
    covariance = (dv @ ds).item() * (b - 1) / b
    noise = max(variance, 0.0) / b
    at_least = max(signal, 0.0)
    share = (at_least + 0.75 * noise) / (at_least + noise) if noise > 0 else 1.0
    t = _quantile(ds)
    return bound(
        variance,
        signal,
        noise,
        skewed_mean(variance, errors.variance, _skewness(dv), b, _quantile(dv)),
        errors.signal * math.sqrt(share),
        covariance,
        t,
    )


def _skewness(deviations: Tensor) -> float:
    b = len(deviations)
    second, third = (deviations.pow(k).mean().item() for k in (2, 3))
    return third / math.sqrt(second) ** 3 * math.sqrt(b * (b - 1)) / (b - 2) if math.sqrt(second) ** 3 > 0 else 0.0


def _quantile(deviations: Tensor) -> float:
    """Student's t for the error of a mean whose terms deviate so."""
    b = len(deviations)
    second, fourth = (deviations.pow(k).mean().item() for k in (2, 4))
    excess = fourth / (second * second) - 1.0 if second * second > 0 else 0.0
    degrees = max(1.0, min(b - 1.0, 2.0 * b / excess)) if excess > 0 else b - 1.0
    return t_quantile(round(degrees, 1 if degrees > 5 else 2))  # a quantile once computed is remembered


def _error(values: Tensor) -> float:
    b = len(values)
    return torch.sqrt((values - values.mean()).square().sum() * (b - 1) / b).item()
