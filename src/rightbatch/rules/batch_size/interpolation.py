"""The critical batch of a model that fits its data exactly."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ...decision import Decision, Needs, Plan, Stateless, StepContext
from ...ranges import require_whole
from ..interpolation import Spectrum

HOLD = Decision(reason="hold: the batch is the critical one")


@dataclass(frozen=True, slots=True)
class Interpolation:
    """Keep the critical batch ⌊m*⌋, m* = β/(λ₁ - λ_k) + 1, the largest whose m samples are worth m steps of one.

    | symbol | argument | meaning |
    |---|---|---|
    | β | beta | greatest curvature of a single sample: max_i ‖x_i‖² for least squares |
    | λ₁ | lambda_1 | greatest eigenvalue of the mean Hessian |
    | λ_k | lambda_k | its smallest eigenvalue above zero; None takes m* = β/λ₁ + 1 |

    For convex losses that can be driven to zero, such as a linear or kernel model with as many features as samples.
    `rightbatch.probing.feature_spectrum` and `kernel_spectrum` give the three numbers; the step rule of this name gives
    the step. Beyond m* a batch does hardly more than one step of all the data, whatever it costs; per example m = 1 is
    as good as m*.

    Args:
        beta: β.
        lambda_1: λ₁, at most β.
        lambda_k: λ_k.
        max_size: largest batch; None is all the data.

    Raises:
        InputError: a setting out of its range, or not λ_k <= λ₁ <= β.

    Reference: S. Ma, R. Bassily, M. Belkin, "The Power of Interpolation: Understanding the Effectiveness of SGD in
    Modern Over-parametrized Learning" (ICML 2018; arXiv 1712.06559). Its batches are drawn with replacement; without,
    a batch is worth a little more.
    """

    beta: float
    lambda_1: float
    lambda_k: float | None = None
    max_size: int | None = None

    name: ClassVar[str] = "interpolation"
    needs: ClassVar[Needs] = Needs.NOTHING
    enlarges_current: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        Spectrum(self.beta, self.lambda_1, self.lambda_k)
        if self.max_size is not None:
            require_whole("Interpolation.max_size", self.max_size, least=1)

    def start(self, plan: Plan) -> tuple[Decision, Stateless]:
        """Decide for the critical batch."""
        critical = Spectrum(self.beta, self.lambda_1, self.lambda_k).critical_samples
        cap = plan.train_samples if self.max_size is None else min(int(self.max_size), plan.train_samples)
        batch_size = math.floor(critical) if critical < cap else cap
        reason = f"the critical batch is {critical:.4g} samples: {batch_size}"
        return Decision(batch_size=batch_size, reason=reason, evidence={"critical_samples": critical}), Stateless()

    def decide(self, now: StepContext, state: Stateless) -> tuple[Decision, Stateless]:
        """Keep it."""
        return HOLD, state
