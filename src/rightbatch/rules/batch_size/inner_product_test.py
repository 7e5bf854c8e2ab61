"""The inner-product test: the noise along the gradient must not reverse it."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ...citation import Citation
from ...decision import Needs, StepContext
from ..papers import ADAPTIVE_SAMPLING
from .sampling_test import Condition, SamplingTest, measured


@dataclass(frozen=True, slots=True)
class InnerProductTest(SamplingTest):
    """Where Var_i⟨g_i, g_B⟩/b · (N - b)/(N - 1) > θ²·‖g_B‖⁴, set the next batch to the smallest size that passes.

    | symbol | argument | meaning |
    |---|---|---|
    | Var_i⟨g_i, g_B⟩ | measurement.projection_variance | spread of the samples along the gradient, 1/(b - 1) |
    | ‖g_B‖² | measurement.gradient_norm2 | squared norm of the batch's mean gradient |
    | b | batch_size | samples in the current batch |
    | N | train_samples | samples in the training set |
    | θ | theta | noise allowed along the gradient, relative to its norm |

    Only the noise along the gradient counts, one direction out of many, so that batches are far smaller than the norm
    test's. The noise across it is not bounded: "augmented-test" does that. The size never falls.

    Args:
        theta: θ, above 0.
        initial: size of the first batch.
        max_size: largest batch size; None is all the data.

    Raises:
        InputError: a setting out of its range.

    Reference: Bollapragada, Byrd and Nocedal 2018, equation (2.6). Differs: the finite-population factor, 1 for large
    N, is that of Byrd et al. 2012; no average of recent gradients, the paper's guard for very small batches.
    """

    name: ClassVar[str] = "inner-product-test"
    reference: ClassVar[Citation | None] = ADAPTIVE_SAMPLING.at("equation (2.6)")
    needs: ClassVar[Needs] = Needs.EVERY_BATCH | Needs.PROJECTIONS

    def _conditions(self, now: StepContext) -> list[Condition]:
        found = measured(now)
        if found is None or not math.isfinite(found.projection_variance):
            return []
        return [Condition(found.projection_variance, self.theta**2 * found.gradient_norm2**2)]
