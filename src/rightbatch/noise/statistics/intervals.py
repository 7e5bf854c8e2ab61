"""Intervals that hold 90 %: of the variance V, the signal s and the noise scale V/s, from estimates and errors."""

import math
from functools import lru_cache

from ...measurements import ANYTHING, ConfidenceInterval, Intervals

LARGEST_EXPONENT = 700.0  # exp of more is no float


def bound(
    variance: float,
    signal: float,
    noise: float,
    of_variance: ConfidenceInterval,
    signal_error: float,
    covariance: float,
    t: float,
) -> Intervals:
    """Limits of V, s and V/s, made so that the noise scale is bounded exactly where the signal is told from zero.

    A squared norm is positive and skewed: its error grows with it. The squared norm of the mean gradient, s + N, is
    therefore bounded on the logarithmic scale, and N taken off. The ratio's limits are Fieller's, with the distance
    of the limit in question in the place of t times each standard error (variance estimates recovered).

    | symbol | argument | meaning |
    |---|---|---|
    | v, s | variance, signal | the estimates; s may be negative |
    | N = V/b | noise | what noise adds to the squared norm of the mean gradient, known far better than s |
    | v₋, v₊ | of_variance | limits of V |
    | e | signal_error | standard error of s |
    | c | covariance | of the errors of v and s |
    | t | t | quantile of Student's distribution |

    s₋ = (s + N) exp(-t e/(s + N)) - N,  s₊ = (s⁺ + N) exp(t e'/(s⁺ + N)) - N,  s⁺ = max(s, 0),  e' = e sqrt(v₊/v)

    e' is what e would be, at least, were the variance at its upper limit: where a few samples that are in no batch yet
    hold most of it, e says little of s, and v₊ knows.

    Returns:
        Limits of at least 0; `ConfidenceInterval(0, inf)` where nothing can be said.

    Reference: Fieller, "Some problems in interval estimation" (1954); Donner, Zou, "Closed-form confidence intervals
    for functions of the normal mean and standard deviation" (2012), for limits in the place of standard errors.
    """
    at_least = max(signal, 0.0)
    low = signal + _shift(signal + noise, -t * signal_error)
    growth = math.sqrt(of_variance.high / variance) if variance > 0.0 and signal_error > 0.0 else 1.0
    high = at_least + _shift(at_least + noise, t * signal_error * growth)
    together = t * t * covariance
    if variance <= 0.0 or not math.isfinite(together):
        return Intervals(of_variance, ConfidenceInterval(max(low, 0.0), high), ANYTHING)
    down, up = variance - of_variance.low, of_variance.high - variance
    least = most = math.nan
    if math.isfinite(high):
        least = fieller(variance, signal, down, high - at_least, together)[0]
    if math.isfinite(up) and low > 0.0:
        most = fieller(variance, signal, up, signal - low, together)[1]
    scale = ConfidenceInterval(0.0 if math.isnan(least) else least, math.inf if math.isnan(most) else most)
    return Intervals(of_variance, ConfidenceInterval(max(low, 0.0), high), scale)


def positive(estimate: float, error: float, t: float) -> ConfidenceInterval:
    """Limits of a positive number on the logarithmic scale: x exp(±t e/x)."""
    if estimate <= 0.0 or not math.isfinite(t * error):
        return ANYTHING
    return ConfidenceInterval(estimate + _shift(estimate, -t * error), estimate + _shift(estimate, t * error))


def skewed_mean(mean: float, error: float, skewness: float, samples: int, t: float) -> ConfidenceInterval:
    """Limits of the positive mean of a skewed distribution, by Hall's cubic transformation of Student's statistic.

    T = (x̄ - μ)/e is skewed where the sample is; g(T) = T + aT²/3 + a²T³/27 + a/6, a = γ/√n, is so only to the order
    of 1/n. The limits are x̄ - e g⁻¹(±t), g⁻¹(y) = (3/a)((1 + a(y - a/6))^(1/3) - 1).

    | symbol | argument |
    |---|---|
    | x̄, e | mean, its standard error |
    | γ, n | skewness, samples |
    | t | t |

    Reference: Hall, "On the removal of skewness by transformation" (1992).
    """
    a = skewness / math.sqrt(samples)

    def inverse(y: float) -> float:
        return y if abs(a) < 1e-6 else 3.0 / a * (math.cbrt(1.0 + a * (y - a / 6.0)) - 1.0)

    return ConfidenceInterval(max(0.0, mean - error * inverse(t)), max(0.0, mean - error * inverse(-t)))


def _shift(estimate: float, deviation: float) -> float:
    """Difference x exp(d/x) - x: a deviation d from a positive x, taken on the logarithmic scale."""
    if estimate <= 0.0:
        return deviation
    exponent = deviation / estimate
    return estimate * math.expm1(exponent) if exponent < LARGEST_EXPONENT else math.inf


def fieller(v: float, s: float, dv: float, ds: float, together: float = 0.0) -> tuple[float, float]:
    """Limits of V/s, both known to be at least zero: all R with (v - R s)² <= dv² - 2R c + R² ds².

    They solve (s² - ds²) R² - 2 (v s - c) R + (v² - dv²) = 0. Where s is not told from zero the set of R is unbounded
    above, passing through infinity.

    Args:
        v: estimate of V.
        s: estimate of s; a negative one counts as zero.
        dv: t times the standard error of v, or how far its limit is away.
        ds: the same of s.
        together: t² times the covariance of v and s; no more is believed than dv ds allows.

    Returns:
        (low, high) with 0 <= low <= high <= inf.
    """
    s = max(s, 0.0)
    c = min(max(together, -dv * ds), dv * ds)
    unit_v, unit_s = max(v, dv), max(s, ds)  # of the order of one, no square is lost
    if unit_v <= 0.0 or unit_s <= 0.0:
        return 0.0, math.inf
    v, dv, s, ds, c = v / unit_v, dv / unit_v, s / unit_s, ds / unit_s, c / unit_v / unit_s
    unit = unit_v / unit_s
    square, half, rest = (s - ds) * (s + ds), v * s - c, (v - dv) * (v + dv)
    root2 = half * half - square * rest
    if square > 0:
        root = math.sqrt(max(root2, 0.0))
        return max(0.0, (half - root) / square * unit), max(0.0, (half + root) / square * unit)
    if root2 <= 0 or rest <= 0 or v <= 0:
        return 0.0, math.inf
    return max(0.0, rest / (half + math.sqrt(root2)) * unit), math.inf  # the positive root, stable as square vanishes


@lru_cache(maxsize=4096)
def t_quantile(degrees: float) -> float:
    """The 95 % quantile of Student's t distribution, so that ±t holds 90 %; for any real number of degrees of freedom.

    With t = sqrt(f) tan φ the probability is 1/2 + Γ((f+1)/2)/(sqrt(π) Γ(f/2)) ∫_0^φ cos^(f-1). Simpson's rule and
    Newton's method on the integral; right to 2e-3 at 0.5 degrees of freedom and 1e-6 from 0.9 on.

    Args:
        degrees: f, at least 0.5; infinity is the normal distribution.
    """
    if degrees > 1e4:
        return 1.6448536269514722 * (1.0 + 0.9264 / degrees)  # (z² + 1)/4 = 0.9264, the first term in 1/f
    f = degrees
    unit = math.exp(math.lgamma((f + 1) / 2) - math.lgamma(f / 2)) / math.sqrt(math.pi)

    def density(u: float) -> float:
        return unit * math.pow(math.cos(u), f - 1)

    # low and high enclose φ; Newton where it stays inside, else bisection
    low, high = 0.0, math.pi / 2
    phi = math.atan(1.645 / math.sqrt(f))
    for _ in range(60):
        h = phi / 128
        area = sum((4 if k % 2 else 2) * density(k * h) for k in range(1, 128))
        excess = (density(0.0) + area + density(phi)) * h / 3 - 0.45
        low, high = (low, phi) if excess > 0 else (phi, high)
        step = phi - excess / density(phi)
        after = step if low < step < high else (low + high) / 2
        if abs(after - phi) < 1e-12:
            break
        phi = after
    return math.sqrt(f) * math.tan(phi)
