"""The augmented inner-product test: bounds the noise along the gradient and the noise across it."""

from dataclasses import dataclass
from typing import ClassVar

from ...decision import StepContext
from ...ranges import require_number
from .inner_product_test import InnerProductTest
from .sampling_test import Condition, SamplingTest


@dataclass(frozen=True, slots=True)
class AugmentedTest(InnerProductTest):
    """Take the larger of the batches that the inner-product test and the orthogonality test ask for.

    Var_i⟨g_i, g_B⟩/b <= θ²·‖g_B‖⁴ and Var_⊥/b <= ν²·‖g_B‖², with
    Var_⊥ = Σ_i ‖g_i - ⟨g_i, g_B⟩ g_B/‖g_B‖²‖²/(b - 1) = V̂ - Var_i⟨g_i, g_B⟩/‖g_B‖², the left sides times
    (N - b)/(N - 1).

    | symbol | argument | meaning |
    |---|---|---|
    | Var_i⟨g_i, g_B⟩ | measurement.projection_variance | spread of the samples along the gradient, 1/(b - 1) |
    | V̂ | measurement.variance | unbiased trace of the covariance of one sample's gradient |
    | ‖g_B‖² | measurement.gradient_norm2 | squared norm of the batch's mean gradient |
    | b | batch_size | samples in the current batch |
    | N | train_samples | samples in the training set |
    | θ | theta | noise allowed along the gradient, relative to its norm |
    | ν | nu | noise allowed across the gradient, relative to its norm |

    Both spreads are those of whole gradients. Summing the first tensor by tensor, as some software does, leaves out how
    the tensors vary together. ν = tan 80° lets the batch's gradient stray by 80 degrees. The size never falls.

    Args:
        theta: θ, above 0.
        initial: size of the first batch.
        max_size: largest batch; None is all the data.
        nu: ν, above 0.

    Raises:
        InputError: a setting out of its range.

    Reference: R. Bollapragada, R. Byrd, J. Nocedal, "Adaptive Sampling Strategies for Stochastic Optimization" (SIAM
    Journal on Optimization 28, 2018; arXiv 1710.11258), equations (2.6) and (3.3). The finite-population factor is Byrd
    et al.'s. The paper's average of recent gradients, a guard for very small batches, is left out.
    """

    nu: float = 5.67

    name: ClassVar[str] = "augmented-test"

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        SamplingTest.__post_init__(self)
        require_number("AugmentedTest.nu", self.nu, above=0)

    def _conditions(self, now: StepContext) -> list[Condition]:
        along = InnerProductTest._conditions(self, now)
        found = now.measurement
        if not along or found is None:
            return []
        across = found.variance - found.projection_variance / found.gradient_norm2
        return [*along, Condition(across, self.nu**2 * found.gradient_norm2)]
