"""The tracker of the noise scale: V̂ and ŝ averaged separately, then divided, with an honest interval."""

import math
from typing import Any

from ...averages import ExponentialAverage
from ...errors import InputError
from ...measurements import (
    NO_INTERVALS,
    UNKNOWN,
    ConfidenceInterval,
    Intervals,
    Measurement,
    NoiseEstimate,
    StandardErrors,
)
from .intervals import bound, positive, t_quantile


class NoiseScale:
    """Exponentially weighted averages of V̂ and ŝ, and their ratio, with 90 % confidence intervals.

    Averages are bias-corrected: m = Σ w_k x_k / Σ w_k, w_k = decay^(n-k), of whatever signs the measurements have. A
    ratio of averages and not an average of ratios, as a single ŝ may be near zero or negative. The intervals come from
    the measurements' own scatter, with Student's t at n_eff - 1 degrees of freedom, n_eff = (Σw)²/Σw², on the scale
    that fits each number (`intervals.bound`). That of the ratio says "at least X" while the signal is not told from
    zero. Measurements are taken as independent and of one true value; what moves within the window widens the
    intervals.

    Args:
        decay: weight of the past per measurement; (1 + decay)/(1 - decay) measurements count in the long run: 19 at
            0.9; all of them, alike, at 1, which suits measurements at the same parameters.

    Reference: McCandlish, Kaplan, Amodei, "An empirical model of large-batch training" (2018), appendix A.1, for the
    separate averages.
    """

    def __init__(self, decay: float = 0.9) -> None:
        if not 0.0 <= decay <= 1.0:
            raise InputError(f"decay={decay} was given; it must be at least 0 and at most 1")
        self.decay = decay
        self._samples = 0
        self._weight2 = 0.0  # Σw²
        self._variance = ExponentialAverage[float](decay)
        self._signal = ExponentialAverage[float](decay)
        self._noise = ExponentialAverage[float](decay)  # of V̂/b
        self._position = ExponentialAverage[float](decay)  # of the samples consumed when the measurements were made
        self._scatter = (0.0, 0.0, 0.0)  # Σw(V-m_V)², Σw(s-m_s)², Σw(V-m_V)(s-m_s)
        self._first: tuple[StandardErrors, Intervals] = (UNKNOWN, NO_INTERVALS)  # of the only measurement

    def update(self, measurement: Measurement, samples: int) -> None:
        """Take in one measurement, made when `samples` samples had been consumed.

        Raises:
            InputError: its numbers are not finite.
        """
        if not (math.isfinite(measurement.variance) and math.isfinite(measurement.signal)):
            raise InputError(
                f"a measurement with variance {measurement.variance} and signal {measurement.signal} was given; "
                "both must be finite: skip batches whose gradient is not"
            )
        alone = self._variance.updates == 0
        dv = 0.0 if alone else measurement.variance - self._variance.mean
        ds = 0.0 if alone else measurement.signal - self._signal.mean
        self._variance.update(measurement.variance)
        self._signal.update(measurement.signal)
        self._noise.update(measurement.variance / measurement.samples)
        self._position.update(float(samples))
        self._weight2 = self.decay**2 * self._weight2 + 1.0
        # West's update: differences from the running mean lose no digits where squares minus a square would
        share = 1.0 - 1.0 / self._variance.weight
        vv, ss, vs = self._scatter
        self._scatter = (
            self.decay * vv + share * dv * dv,
            self.decay * ss + share * ds * ds,
            self.decay * vs + share * dv * ds,
        )
        self._samples = samples
        self._first = (measurement.standard_error, measurement.intervals) if alone else (UNKNOWN, NO_INTERVALS)

    def estimate(self, samples: int) -> NoiseEstimate | None:
        """What is known when `samples` samples have been consumed; None before the first measurement."""
        if self._variance.updates == 0:
            return None
        v, s, weight = self._variance.mean, self._signal.mean, self._variance.weight
        scale = v / s if s > 0 else math.inf
        effective = weight**2 / self._weight2
        if effective < 1.5:  # one measurement, or a window hardly longer: their scatter says nothing
            error, intervals = self._first
        else:
            # Σw x²/Σw underestimates the variance of x by 1 - 1/n_eff, and that of the mean is 1/n_eff of it
            vv, ss, vs = (c / weight / (effective - 1.0) for c in self._scatter)
            # of first order: the variance of v - R s, over s²
            square = vv - 2 * scale * vs + scale * scale * ss if math.isfinite(scale) else math.inf
            spread = math.sqrt(max(square, 0.0)) / s if math.isfinite(square) else math.inf
            error = StandardErrors(math.sqrt(vv), math.sqrt(ss), spread)
            t = t_quantile(round(effective - 1.0, 2))
            intervals = bound(v, s, self._noise.mean, positive(v, error.variance, t), error.signal, vs, t)
        low, high = intervals.noise_scale
        return NoiseEstimate(
            variance=v,
            signal=s,
            noise_scale=scale,
            low=low,
            high=high,
            standard_error=error,
            measurements=self._variance.updates,
            age_samples=samples - self._samples,
            mean_age_samples=samples - self._position.mean,
            intervals=intervals,
        )

    def age_samples(self, samples: int) -> int | None:
        """How many samples have been consumed since the last measurement; None before the first."""
        return samples - self._samples if self._variance.updates else None

    @property
    def _averages(self) -> tuple[ExponentialAverage[float], ...]:
        return self._variance, self._signal, self._noise, self._position

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on bit for bit, in plain types."""
        return {
            "decay": self.decay,
            "samples": self._samples,
            "weight2": self._weight2,
            "averages": [average.state_dict() for average in self._averages],
            "scatter": list(self._scatter),
            "first_error": list(self._first[0]),
            "first_intervals": [list(interval) for interval in self._first[1]],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.decay = state["decay"]
        self._samples = state["samples"]
        self._weight2 = state["weight2"]
        for average, saved in zip(self._averages, state["averages"], strict=True):
            average.load_state_dict(saved)
        vv, ss, vs = state["scatter"]
        self._scatter = (vv, ss, vs)
        errors, limits = state["first_error"], state["first_intervals"]
        self._first = (StandardErrors(*errors), Intervals(*(ConfidenceInterval(*pair) for pair in limits)))
