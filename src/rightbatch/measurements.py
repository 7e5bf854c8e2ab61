"""Measurements: the values that estimators and timers pass to the rules.

All values are plain numbers. Notation: per-example gradients g_i, a batch of b samples with mean gradient g_B,
the covariance of one sample's gradient Σ, the true gradient g.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple


class StandardErrors(NamedTuple):
    """Standard errors of a measurement; nan if unknown from one batch."""

    variance: float
    signal: float
    noise_scale: float


UNKNOWN = StandardErrors(math.nan, math.nan, math.nan)


class ConfidenceInterval(NamedTuple):
    """A 90 % interval from low to high; from 0 to infinity if unknown."""

    low: float
    high: float


ANYTHING = ConfidenceInterval(0.0, math.inf)


class Intervals(NamedTuple):
    """The 90 % intervals of a measurement."""

    variance: ConfidenceInterval
    signal: ConfidenceInterval
    noise_scale: ConfidenceInterval


NO_INTERVALS = Intervals(ANYTHING, ANYTHING, ANYTHING)


@dataclass(frozen=True, slots=True)
class LayerReading:
    """How the noise of one layer was measured: its module path and type, the estimator and the reason."""

    path: str
    layer: str
    method: str
    reason: str


@dataclass(frozen=True, slots=True)
class Audit:
    """An approximate estimate compared with the exact one, on a few samples of the same batch.

    Args:
        audited_samples: number of samples measured exactly.
        estimate: the approximate estimate of Σ ‖g_i‖² over these samples for per-sample estimators, otherwise of V̂.
        exact: the same quantity from the exact norms of these samples.
        standard_error: of estimate - exact, from the spread over the samples.
    """

    audited_samples: int
    estimate: float
    exact: float
    standard_error: float

    @property
    def discrepancy(self) -> float:
        """estimate/exact - 1."""
        return self.estimate / self.exact - 1 if self.exact > 0 else math.nan


@dataclass(frozen=True, slots=True)
class Curvature:
    """Curvature along the gradient, and the noise weighted by curvature; H is the Hessian of the batch's loss.

    Args:
        along_gradient: gᵀHg/‖g‖², the curvature along the gradient; its inverse is the best noise-free step.
        noise_scale: tr(HΣ)/(gᵀHg) in samples, the noise scale weighted by curvature; nan if not requested.
        standard_error: of the noise scale; nan if unknown.
        method: how products with H were computed: "Hessian-vector product" or "gradient difference".
        reason: why the second was used, as text.
    """

    along_gradient: float
    noise_scale: float = math.nan
    standard_error: float = math.nan
    method: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Measurement:
    """A measurement of the gradient noise from one batch.

    | symbol | argument | meaning |
    |---|---|---|
    | b | samples | samples in the batch |
    | ‖g_B‖² | gradient_norm2 | squared norm of the batch's mean gradient |
    | V̂ | variance | Σ_i ‖g_i - g_B‖² / (b - 1), unbiased for tr Σ |
    | ŝ | signal | ‖g_B‖² - V̂/b, unbiased for ‖g‖²; may be negative |

    Args:
        samples: b.
        gradient_norm2: ‖g_B‖².
        variance: V̂.
        signal: ŝ.
        standard_error: standard errors of variance, signal and noise_scale; nan if unknown.
        method: the estimator's name, such as "per-example" or "micro-batch".
        reason: why this estimator was used, as text.
        cost_s: seconds the measurement added, nan if not timed.
        metric: the optimizer whose preconditioner P was applied, such as "AdamW", so that g_i means P g_i; "" if none.
        layers: how each layer was measured, for estimators that work by layer.
        groups: the same measurement for each parameter group of the optimizer, in order.
        curvature: if requested.
        audit: if the estimate was compared with the exact one.
        projection_variance: Σ_i (⟨g_i, g_B⟩ - ‖g_B‖²)² / (b - 1), if requested, otherwise nan.
        intervals: 90 % intervals of variance, signal and noise_scale; 0 to infinity if unknown from this batch.
    """

    samples: int
    gradient_norm2: float
    variance: float
    signal: float
    standard_error: StandardErrors = UNKNOWN
    method: str = "per-example"
    reason: str = ""
    cost_s: float = math.nan
    metric: str = ""
    layers: tuple[LayerReading, ...] = ()
    groups: tuple["Measurement", ...] = ()
    curvature: Curvature | None = None
    audit: Audit | None = None
    projection_variance: float = math.nan
    intervals: Intervals = NO_INTERVALS

    @property
    def noise_scale(self) -> float:
        """V̂/ŝ in samples; infinite if the signal is not positive."""
        return self.variance / self.signal if self.signal > 0 else math.inf


@dataclass(frozen=True, slots=True)
class NoiseEstimate:
    """The smoothed noise: V̂ and ŝ averaged separately, then divided.

    Args:
        variance: average of V̂.
        signal: average of ŝ.
        noise_scale: their ratio, in samples.
        low: lower end of the 90 % interval of the noise scale.
        high: upper end; infinite if the signal is not significantly different from zero.
        standard_error: of variance, signal and noise_scale.
        measurements: number of measurements.
        age_samples: samples consumed since the last measurement.
        mean_age_samples: samples consumed since the measurements, as their weighted mean.
        intervals: 90 % intervals of variance, signal and noise_scale, the last being `low` and `high`.
    """

    variance: float
    signal: float
    noise_scale: float
    low: float
    high: float
    standard_error: StandardErrors
    measurements: int
    age_samples: int = 0
    mean_age_samples: float = 0.0
    intervals: Intervals = NO_INTERVALS


@dataclass(frozen=True, slots=True)
class StepTime:
    """Step time over batch size: t(b) = fixed_s + per_sample_s · b (Hockney's t0 and t1).

    `half_performance` is n½ = t0/t1 in samples, `standard_error` belongs to it, `sizes` counts the distinct batch
    sizes that were timed and `smallest` and `largest` bound them.
    """

    fixed_s: float
    per_sample_s: float
    half_performance: float
    standard_error: float
    sizes: int
    smallest: int
    largest: int

    def seconds(self, samples: float) -> float:
        """Predicted seconds of a step on `samples` samples."""
        return self.fixed_s + self.per_sample_s * samples


@dataclass(frozen=True, slots=True)
class Movement:
    """The distance of an averaged iterate from its start x0, and its steps.

    Args:
        distance_rms: ‖x - x0‖₂ / sqrt(number of parameters), x the average.
        squared_directions: Q = Σ_t rms(d_t)², d_t the optimizer's direction (its update divided by the learning rate).
        steps: t.
    """

    distance_rms: float
    squared_directions: float
    steps: int
