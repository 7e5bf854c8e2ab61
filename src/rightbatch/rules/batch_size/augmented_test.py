"""The augmented inner-product test: bounds the noise along the gradient and the noise across it."""

from dataclasses import dataclass
from typing import ClassVar

from ...citation import Citation
from ...decision import StepContext
from ...ranges import require_number
from ..papers import ADAPTIVE_SAMPLING
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

    Both spreads are those of whole gradients. Summing the first tensor by tensor, as some software does, ignores how
    the tensors vary together. ν = tan 80° allows the batch's gradient to deviate by 80 degrees. The size never falls.

    Args:
        theta: θ, above 0.
        initial: size of the first batch.
        max_size: largest batch size; None is all the data.
        nu: ν, above 0.

    Raises:
        InputError: a setting out of its range.

    Reference: Bollapragada, Byrd and Nocedal 2018, equations (2.6) and (3.3). Differs: the finite-population factor is
    that of Byrd et al. 2012; no average of recent gradients, the paper's guard for very small batches.
    """

    nu: float = 5.67

    name: ClassVar[str] = "augmented-test"
    reference: ClassVar[Citation | None] = ADAPTIVE_SAMPLING.at("equations (2.6) and (3.3)")

    def __post_init__(self) -> None:
        """Check the settings."""
        SamplingTest.__post_init__(self)
        require_number("AugmentedTest.nu", self.nu, above=0)

    def _conditions(self, now: StepContext) -> list[Condition]:
        along = InnerProductTest._conditions(self, now)
        found = now.measurement
        if not along or found is None:
            return []
        across = found.variance - found.projection_variance / found.gradient_norm2
        return [*along, Condition(across, self.nu**2 * found.gradient_norm2)]
