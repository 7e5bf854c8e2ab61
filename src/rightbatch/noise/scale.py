"""The tracker of the noise scale: V̂ and ŝ averaged separately, then divided, with an honest interval."""

import math
from functools import lru_cache
from typing import Any

from ..errors import InputError
from ..evidence import Measurement, NoiseEstimate, StandardErrors


class NoiseScale:
    """Exponentially weighted averages of V̂ and ŝ, and their ratio with a 90 % confidence interval.

    Averages are bias-corrected: m = Σ w_k x_k / Σ w_k, w_k = decay^(n-k), of whatever signs the measurements have. A
    ratio
    of averages and not an average of ratios, as a single ŝ may be near zero or negative. The interval is Fieller's:
    all R with (m_V - R m_s)² <= t² (v_VV - 2R v_Vs + R² v_ss), v the covariance of the two averages from the
    measurements' own scatter. It says "at least X" while the signal is not told from zero. Measurements are taken as
    independent and of one true value; what moves within the window widens the interval.

    Args:
        decay: weight of the past per measurement; (1 + decay)/(1 - decay) measurements count in the long run: 19 at
            0.9; all of them, alike, at 1, which suits measurements at the same parameters.

    Reference: McCandlish, Kaplan, Amodei, "An empirical model of large-batch training" (2018), appendix A.1, for the
    separate averages; Fieller, "Some problems in interval estimation" (1954), for the interval of a ratio.
    """

    def __init__(self, decay: float = 0.9) -> None:
        if not 0.0 <= decay <= 1.0:
            raise InputError(f"decay={decay} was given; it must be at least 0 and at most 1")
        self.decay = decay
        self._measurements = 0
        self._samples = 0
        self._weight = 0.0  # Σw
        self._weight2 = 0.0  # Σw²
        self._variance = 0.0  # m_V
        self._signal = 0.0  # m_s
        self._scatter = (0.0, 0.0, 0.0)  # Σw(V-m_V)², Σw(s-m_s)², Σw(V-m_V)(s-m_s)
        self._first_error: tuple[float, ...] = (math.nan, math.nan, math.nan)

    def update(self, measurement: Measurement, samples: int) -> None:
        """Take in one measurement, made when `samples` examples had been consumed.

        Raises:
            InputError: its numbers are not finite.
        """
        if not (math.isfinite(measurement.variance) and math.isfinite(measurement.signal)):
            raise InputError(
                f"a measurement with variance {measurement.variance} and signal {measurement.signal} was given; "
                "both must be finite: skip batches whose gradient is not"
            )
        past = self.decay * self._weight
        self._weight = past + 1.0
        self._weight2 = self.decay**2 * self._weight2 + 1.0
        dv, ds = measurement.variance - self._variance, measurement.signal - self._signal
        self._variance += dv / self._weight
        self._signal += ds / self._weight
        # West's update: differences from the running mean lose no digits where squares minus a square would
        share = past / self._weight
        vv, ss, vs = self._scatter
        self._scatter = (
            self.decay * vv + share * dv * dv,
            self.decay * ss + share * ds * ds,
            self.decay * vs + share * dv * ds,
        )
        self._measurements += 1
        self._samples = samples
        self._first_error = tuple(measurement.standard_error) if self._measurements == 1 else (math.nan,) * 3

    def estimate(self, samples: int) -> NoiseEstimate | None:
        """What is known when `samples` examples have been consumed; None before the first measurement."""
        if self._measurements == 0:
            return None
        v, s = self._variance, self._signal
        scale = v / s if s > 0 else math.inf
        effective = self._weight**2 / self._weight2
        if effective < 1.5:  # one measurement, or a window hardly longer: their scatter says nothing
            error = StandardErrors(*self._first_error)
            low, high = 0.0, math.inf
            if math.isfinite(scale) and math.isfinite(error.noise_scale):
                half = t_quantile(math.inf) * error.noise_scale
                low, high = max(0.0, scale - half), scale + half
        else:
            # Σw x²/Σw underestimates the variance of x by 1 - 1/n_eff, and that of the mean is 1/n_eff of it
            vv, ss, vs = (c / self._weight / (effective - 1.0) for c in self._scatter)
            # of first order: the variance of v - R s, over s²
            square = vv - 2 * scale * vs + scale * scale * ss if math.isfinite(scale) else math.inf
            spread = math.sqrt(max(square, 0.0)) / s if math.isfinite(square) else math.inf
            error = StandardErrors(math.sqrt(vv), math.sqrt(ss), spread)
            low, high = fieller(v, s, vv, ss, vs, t_quantile(round(effective - 1.0, 2)))
        return NoiseEstimate(v, s, scale, low, high, error, self._measurements, samples - self._samples)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on bit for bit, in plain types."""
        return {
            "decay": self.decay,
            "measurements": self._measurements,
            "samples": self._samples,
            "weight": self._weight,
            "weight2": self._weight2,
            "variance": self._variance,
            "signal": self._signal,
            "scatter": list(self._scatter),
            "first_error": list(self._first_error),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.decay = state["decay"]
        self._measurements = state["measurements"]
        self._samples = state["samples"]
        self._weight = state["weight"]
        self._weight2 = state["weight2"]
        self._variance = state["variance"]
        self._signal = state["signal"]
        vv, ss, vs = state["scatter"]
        self._scatter = (vv, ss, vs)
        self._first_error = tuple(state["first_error"])


def fieller(v: float, s: float, vv: float, ss: float, vs: float, t: float) -> tuple[float, float]:
    """Confidence limits of V/s, both known to be at least zero, from estimates and the covariance of their errors.

    The limits solve (s² - t² ss) R² - 2 (v s - t² vs) R + (v² - t² vv) = 0. Where s is not told from zero the set of
    R is unbounded above, passing through infinity.

    Args:
        v: estimate of V.
        s: estimate of s; a negative one counts as zero.
        vv: variance of v.
        ss: variance of s.
        vs: covariance of v and s.
        t: quantile of Student's distribution.

    Returns:
        (low, high) with 0 <= low <= high <= inf.
    """
    s = max(s, 0.0)
    a, half_b, c = s * s - t * t * ss, v * s - t * t * vs, v * v - t * t * vv
    root2 = half_b * half_b - a * c
    if a > 0:
        root = math.sqrt(max(root2, 0.0))
        return max(0.0, (half_b - root) / a), max(0.0, (half_b + root) / a)
    if root2 <= 0 or c <= 0 or v <= 0:
        return 0.0, math.inf
    return max(0.0, c / (half_b + math.sqrt(root2))), math.inf  # the positive root, stable as a -> 0


@lru_cache(maxsize=256)
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
