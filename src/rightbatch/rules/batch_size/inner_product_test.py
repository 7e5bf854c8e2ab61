"""The inner-product test: the noise along the gradient must not turn it round."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ...decision import Needs, StepContext
from .sampling_test import Condition, SamplingTest, measured


@dataclass(frozen=True, slots=True)
class InnerProductTest(SamplingTest):
    """Where Var_i⟨g_i, g_B⟩/b · (N - b)/(N - 1) > θ²·‖g_B‖⁴, take next the least batch for which it would not be.

    | symbol | argument | meaning |
    |---|---|---|
    | Var_i⟨g_i, g_B⟩ | measurement.projection_variance | spread of the samples along the gradient, 1/(b - 1) |
    | ‖g_B‖² | measurement.gradient_norm2 | squared norm of the batch's mean gradient |
    | b | batch_size | samples in the current batch |
    | N | train_samples | samples in the training set |
    | θ | theta | noise allowed along the gradient, relative to its norm |

    Only the noise along the gradient counts, one direction out of many, so that batches are far smaller than the norm
    test's. Nothing bounds the noise across it: "augmented-test" does. The size never falls.

    Args:
        theta: θ, above 0.
        initial: size of the first batch.
        max_size: largest batch; None is all the data.

    Raises:
        InputError: a setting out of its range.

    Reference: R. Bollapragada, R. Byrd, J. Nocedal, "Adaptive Sampling Strategies for Stochastic Optimization" (SIAM
    Journal on Optimization 28, 2018; arXiv 1710.11258), equation (2.6). Its finite-population factor is Byrd et al.'s,
    for large N it is 1. The paper's average of recent gradients, a guard for very small batches, is left out.
    """

    name: ClassVar[str] = "inner-product-test"
    needs: ClassVar[Needs] = Needs.EVERY_BATCH | Needs.PROJECTIONS

    def _conditions(self, now: StepContext) -> list[Condition]:
        found = measured(now)
        if found is None or not math.isfinite(found.projection_variance):
            return []
        return [Condition(found.projection_variance, self.theta**2 * found.gradient_norm2**2)]
