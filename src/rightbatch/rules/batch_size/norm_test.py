"""The norm test: the next batch is large enough for its gradient's error to stay below a fraction of its norm."""

from dataclasses import dataclass
from typing import ClassVar

from ...citation import Citation
from ...decision import StepContext
from ...ranges import require_number
from ..papers import SAMPLE_SIZE
from .sampling_test import Condition, SamplingTest, measured


@dataclass(frozen=True, slots=True)
class NormTest(SamplingTest):
    """Where V̂/b · (N - b)/(N - 1) > θ²·‖g_B‖², set the next batch to the smallest size that passes.

    | symbol | argument | meaning |
    |---|---|---|
    | V̂ | measurement.variance | unbiased trace of the covariance of one sample's gradient |
    | ‖g_B‖² | measurement.gradient_norm2 | squared norm of the batch's mean gradient |
    | b | batch_size | samples in the current batch |
    | N | train_samples | samples in the training set |
    | θ | theta | error allowed in the gradient, relative to its norm |

    The new size is ⌈V̂·N/(V̂ + θ²·‖g_B‖²·(N - 1))⌉, for large N ⌈V̂/(θ²·‖g_B‖²)⌉. The size never falls. ‖g_B‖² contains
    the noise itself, E‖g_B‖² = ‖g‖² + V/b, so that in expectation the test asks for b >= (1/θ² - 1)·B_noise: 0.23
    noise scales at θ = 0.9, none at θ = 1, where at a stationary point it fails about every second time.

    Args:
        theta: θ, in (0, 1].
        initial: size of the first batch.
        max_size: largest batch size; None is all the data.

    Raises:
        InputError: a setting out of its range.

    Reference: Byrd et al. 2012, section 3. Differs: the paper drops the finite-population factor from the new size, N
    being large; here it stays, and the size never exceeds N. Big Batch (De et al. 2017) asks the same of the current
    batch, which it enlarges.
    """

    name: ClassVar[str] = "norm-test"
    reference: ClassVar[Citation | None] = SAMPLE_SIZE.at("section 3")

    def __post_init__(self) -> None:
        """Check the settings."""
        SamplingTest.__post_init__(self)
        require_number(f"{type(self).__name__}.theta", self.theta, above=0, most=1)

    def _conditions(self, now: StepContext) -> list[Condition]:
        found = measured(now)
        return [] if found is None else [Condition(found.variance, self.theta**2 * found.gradient_norm2)]
