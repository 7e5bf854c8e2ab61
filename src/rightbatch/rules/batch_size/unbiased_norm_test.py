"""The norm test against the signal itself instead of the gradient that carries the noise."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ...decision import Needs, StepContext
from .sampling_test import Condition, SamplingTest


@dataclass(frozen=True, slots=True)
class UnbiasedNormTest(SamplingTest):
    """Where V̂/b · (N - b)/(N - 1) > θ²·ŝ, take next the least batch for which it would not be.

    | symbol | argument | meaning |
    |---|---|---|
    | V̂/ŝ | noise.noise_scale | B_noise, averages of variance and signal taken apart and then divided |
    | b | batch_size | samples in the current batch |
    | N | train_samples | samples in the training set |
    | θ | theta | noise allowed, relative to the signal |

    For large N the size is B_noise/θ². The norm test compares with ‖g_B‖² = ŝ + V̂/b and so asks for
    (1/θ² - 1)·B_noise: least where it matters most, at small batches. Since the signal ŝ of one batch may be anything,
    even negative, the smoothed noise is used, measured now and then. While its signal is not told from zero, the noise
    scale is taken as what it is at least, `noise.low`. The size never falls, so that a wrong first estimate stays;
    "gradient-noise-scale" follows it both ways.

    Args:
        theta: θ, above 0; at 1 the batch is one noise scale.
        initial: size of the first batch.
        max_size: largest batch; None is all the data.

    Raises:
        InputError: a setting out of its range.

    Reference: the test is that of R. H. Byrd, G. M. Chin, J. Nocedal, Y. Wu, "Sample size selection in optimization
    methods for machine learning" (Mathematical Programming 134, 2012), section 3; the unbiased signal in place of
    ‖g_B‖² and its smoothing are ours.
    """

    theta: float = 1.0

    name: ClassVar[str] = "unbiased-norm-test"
    needs: ClassVar[Needs] = Needs.NOISE

    def _conditions(self, now: StepContext) -> list[Condition]:
        scale = now.known_noise_scale
        return [Condition(scale, self.theta**2)] if 0 < scale < math.inf else []
