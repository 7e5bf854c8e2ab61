"""DiveBatch: the batch follows the diversity of the gradients, once an epoch."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ...citation import Citation
from ...decision import Decision, Needs, Plan, StepContext
from ...ranges import require_number
from ..bounds import require_sizes, within

GATHERING = Decision(code="averaging", reason="hold: the gradient diversity of this epoch is being averaged")
UNMEASURED = Decision(code="not-measured", reason="hold: the gradient noise was not measured in this epoch")
SETTLED = Decision(code="held", reason="hold: the gradient diversity asks for the same batch size")


@dataclass(frozen=True, slots=True)
class DiveBatchState:
    """The size decided, and the sums over the measurements of this epoch: variance, signal and how many."""

    batch_size: int
    variance: float = 0.0
    signal: float = 0.0
    measurements: int = 0


@dataclass(frozen=True, slots=True)
class DiveBatch:
    """After each epoch set b = δ·n·Δ, Δ = Σ_i ‖g_i‖²/‖Σ_i g_i‖² the diversity of the gradients.

    | symbol | argument | meaning |
    |---|---|---|
    | n | train_samples | samples in the training set |
    | δ | delta | fraction of n·Δ |
    | V̂ | measurement.variance | unbiased trace of the covariance of one sample's gradient |
    | ŝ | measurement.signal | unbiased squared norm of the true gradient |

    n·Δ = (V̂ + ŝ)/(ŝ + V̂/n), V̂ and ŝ averaged over the epoch's measurements: for n far above the noise scale it is
    1 + B_noise, and never more than about n. Where ŝ + V̂/n is not positive, the gradient being invisible, the rule
    takes the largest batch.

    Args:
        initial: size of the first batch.
        min_size: smallest batch size.
        max_size: largest batch size; None is all the data.
        delta: δ, above 0.

    Raises:
        InputError: a setting out of its range, or min_size above max_size.

    Reference: Chen, Wang and Sundaram 2025. Differs: the paper sums gradients over an epoch in which the parameters
    move; this rule estimates the same ratio from measurements within batches, each at one place. The learning rate,
    scaled with the batch in the paper, is up to the lr rule. The defaults are ours.
    """

    initial: int = 128
    min_size: int = 1
    max_size: int | None = None
    delta: float = 1.0

    name: ClassVar[str] = "dive-batch"
    reference: ClassVar[Citation | None] = Citation(
        ("Y. Chen", "Y. Wang", "H. Sundaram"),
        "DiveBatch: Accelerating Model Training Through Gradient-Diversity Aware Batch Size Adaptation",
        2025,
        "arXiv 2509.16173",
    )
    needs: ClassVar[Needs] = Needs.NOISE
    enlarges_current: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the settings."""
        require_sizes("DiveBatch", self.initial, self.max_size, self.min_size)
        require_number("DiveBatch.delta", self.delta, above=0)

    def start(self, plan: Plan) -> tuple[Decision, DiveBatchState]:
        """Decide the first batch."""
        batch_size = within(self.initial, self.min_size, self.max_size, plan.train_samples)
        reason = f"start with {batch_size} samples for one epoch"
        return Decision(batch_size, code="initial", reason=reason), DiveBatchState(batch_size)

    def decide(self, now: StepContext, state: DiveBatchState) -> tuple[Decision, DiveBatchState]:
        """Average until the epoch ends, then move to the size of the averages."""
        variance, signal, count = state.variance, state.signal, state.measurements
        found, n = now.measurement, now.train_samples
        if found is not None and math.isfinite(found.variance) and math.isfinite(found.signal):
            variance, signal, count = variance + found.variance, signal + found.signal, count + 1
        if (now.samples + now.batch_size) // n == now.samples // n:
            return GATHERING, DiveBatchState(state.batch_size, variance, signal, count)
        if not count or not variance > 0:
            return UNMEASURED, DiveBatchState(state.batch_size)
        mean_square = signal + variance / n
        diversity = max(variance + signal, 0.0) / mean_square if mean_square > 0 else math.inf
        batch_size = within(self.delta * diversity, self.min_size, self.max_size, n)
        if batch_size == state.batch_size:
            return SETTLED, DiveBatchState(batch_size)
        reason = f"gradient diversity {diversity:.4g} over the epoch, from {count} measurements: {batch_size} samples"
        evidence = {"diversity": diversity, "variance": variance / count, "signal": signal / count}
        return Decision(batch_size, code="noise-changed", reason=reason, evidence=evidence), DiveBatchState(batch_size)
