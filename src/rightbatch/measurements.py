"""What has been measured: the values that estimators and clocks hand to the rules.

Everything here is plain numbers. Notation: per-example gradients g_i, a batch of b samples with mean gradient g_B,
the covariance of one sample's gradient Σ, the true gradient g.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple


class StandardErrors(NamedTuple):
    """Standard errors of a measurement's numbers; nan where this estimator cannot tell from one batch."""

    variance: float
    signal: float
    noise_scale: float


UNKNOWN = StandardErrors(math.nan, math.nan, math.nan)


class Interval(NamedTuple):
    """From low to high, with 90 % confidence; from 0 to infinity where nothing can be said."""

    low: float
    high: float


ANYTHING = Interval(0.0, math.inf)


class Intervals(NamedTuple):
    """Where a measurement's true values lie, each with 90 % confidence."""

    variance: Interval
    signal: Interval
    noise_scale: Interval


NO_INTERVALS = Intervals(ANYTHING, ANYTHING, ANYTHING)


@dataclass(frozen=True, slots=True)
class LayerReading:
    """How one layer's share of the noise was had: its module path and type, the estimator and why it was taken."""

    path: str
    layer: str
    method: str
    reason: str


@dataclass(frozen=True, slots=True)
class Audit:
    """A cheap estimate held against the exact one on a few samples of the same batch.

    Args:
        audited_samples: how many were looked at exactly.
        estimate: the cheap estimate: of Σ ‖g_i‖² over these samples where samples are estimated one by one, else V̂.
        exact: the same quantity from the exact norms of these samples.
        standard_error: of estimate - exact, as the spread over the samples lets expect.
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
    """Curvature where the gradient points, and the noise weighted by curvature; H is the Hessian of the batch's loss.

    Args:
        along_gradient: gᵀHg/‖g‖², the curvature along the gradient; 1 over it is the step that a clean gradient allows.
        noise_scale: tr(HΣ)/(gᵀHg) in samples, the noise scale with curvature taken into account; nan if not asked for.
        standard_error: of the noise scale; nan where unknown.
        method: how products with H were had: "Hessian-vector product" or "gradient difference".
        reason: why the second, in words.
    """

    along_gradient: float
    noise_scale: float = math.nan
    standard_error: float = math.nan
    method: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One look at the gradient noise, from one batch.

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
        standard_error: standard errors of variance, signal and noise_scale; nan where unknown.
        method: the estimator's name, such as "per-example" or "micro-batch".
        reason: why this estimator was used, in words.
        cost_s: seconds the measurement added, nan if not timed.
        metric: whose preconditioner P was applied, such as "AdamW": then g_i stands for P g_i throughout; "" for none.
        layers: how each layer was read, where layers are read one by one.
        groups: the same measurement of each of the optimizer's parameter groups on its own, in their order.
        curvature: where it was asked for.
        audit: where the estimate was held against the exact one.
        projection_variance: Σ_i (⟨g_i, g_B⟩ - ‖g_B‖²)² / (b - 1), where it was asked for, else nan.
        intervals: 90 % intervals of variance, signal and noise_scale; 0 to infinity where this batch cannot tell.
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
        """V̂/ŝ in samples; infinite when no signal stands out of the noise."""
        return self.variance / self.signal if self.signal > 0 else math.inf


@dataclass(frozen=True, slots=True)
class NoiseEstimate:
    """The smoothed noise: averages of V̂ and ŝ taken separately, then divided.

    Args:
        variance: average of V̂.
        signal: average of ŝ.
        noise_scale: their ratio, in samples.
        low: with 90 % confidence the noise scale is between `low` and `high`.
        high: infinite while the signal is not told from zero.
        standard_error: of variance, signal and noise_scale.
        measurements: how many went in.
        age_samples: samples consumed since the last of them.
        mean_age_samples: samples consumed since the measurements, on average with the weights they have: how old what
            the estimate says is.
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
    """Seconds of one step against its samples: t(b) = fixed_s + per_sample_s · b (Hockney's t0 and t1).

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
    """How far an averaged iterate has come since its start x0, and by what steps.

    Args:
        distance_rms: ‖x - x0‖₂ / sqrt(number of parameters), x the average.
        squared_directions: Q = Σ_t rms(d_t)², d_t the optimizer's direction (its update divided by the learning rate).
        steps: t.
    """

    distance_rms: float
    squared_directions: float
    steps: int
