"""The best step for each batch size of a model that fits its data exactly."""

from dataclasses import dataclass
from typing import ClassVar

from ...decision import Decision, Needs, Plan, Search, Stateless, StepContext
from ..interpolation import Spectrum


@dataclass(frozen=True, slots=True)
class Interpolation:
    """η*(m) = m/(β + (m - 1)·λ_k) up to the critical batch m*, 2m/(β + (m - 1)·(λ₁ + λ_k)) beyond it.

    | symbol | argument | meaning |
    |---|---|---|
    | m | batch_size | samples in the current batch |
    | β | beta | greatest curvature of a single sample: max_i ‖x_i‖² for least squares |
    | λ₁ | lambda_1 | greatest eigenvalue of the mean Hessian |
    | λ_k | lambda_k | its smallest eigenvalue above zero; None takes η*(m) = m/(β + (m - 1)·λ₁) |
    | m* | | β/(λ₁ - λ_k) + 1, the size of the batch rule of this name |

    For convex losses that can be driven to zero, with plain SGD: linear in m for small batches, flat for large ones.
    With λ_k it is the best step for least squares, of which the loss is half the squared error; without the half all
    three are twice as large.

    Args:
        beta: β.
        lambda_1: λ₁, at most β.
        lambda_k: λ_k.

    Raises:
        InputError: not above 0, or not λ_k <= λ₁ <= β.

    Reference: S. Ma, R. Bassily, M. Belkin, "The Power of Interpolation: Understanding the Effectiveness of SGD in
    Modern Over-parametrized Learning" (ICML 2018; arXiv 1712.06559).
    """

    beta: float
    lambda_1: float
    lambda_k: float | None = None

    name: ClassVar[str] = "interpolation"
    needs: ClassVar[Needs] = Needs.NOTHING
    searches: ClassVar[bool] = False
    averages: ClassVar[bool] = False
    guards: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        Spectrum(self.beta, self.lambda_1, self.lambda_k)

    def start(self, plan: Plan) -> tuple[Decision, Stateless]:
        """Begin at the step for one sample."""
        rate = Spectrum(self.beta, self.lambda_1, self.lambda_k).step(1)
        return Decision(lr=rate, reason=f"{rate:.4g} is the best step for one sample"), Stateless()

    def decide(self, now: StepContext, state: Stateless) -> Search:
        """Take the best step for the current batch."""
        yield from ()
        rate = Spectrum(self.beta, self.lambda_1, self.lambda_k).step(now.batch_size)
        return Decision(lr=rate, reason=f"{rate:.4g} is the best step for {now.batch_size} samples"), state
