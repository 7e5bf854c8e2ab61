"""The norm test against the signal itself instead of the gradient that carries the noise."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ...citation import Citation
from ...decision import Needs, StepContext
from ..papers import SAMPLE_SIZE
from .sampling_test import Condition, SamplingTest


@dataclass(frozen=True, slots=True)
class UnbiasedNormTest(SamplingTest):
    """Where V̂/b · (N - b)/(N - 1) > θ²·ŝ, set the next batch to the smallest size that passes.

    | symbol | argument | meaning |
    |---|---|---|
    | V̂/ŝ | noise.noise_scale | B_noise, averages of variance and signal, taken separately and then divided |
    | b | batch_size | samples in the current batch |
    | N | train_samples | samples in the training set |
    | θ | theta | noise allowed, relative to the signal |

    For large N the size is B_noise/θ². The norm test compares with ‖g_B‖² = ŝ + V̂/b and so asks for (1/θ² -
    1)·B_noise. Since the signal ŝ of one batch may even be negative, this test uses the smoothed noise, measured now
    and then, and `noise.low` while the signal is not resolved from zero. The size never falls, so that a wrong first
    estimate persists; "gradient-noise-scale" follows the estimate both ways.

    Args:
        theta: θ, above 0; at 1 the batch is one noise scale.
        initial: size of the first batch.
        max_size: largest batch size; None is all the data.

    Raises:
        InputError: a setting out of its range.

    Reference: the test of Byrd et al. 2012, section 3. Differs: the unbiased signal in place of ‖g_B‖², and its
    smoothing, are ours.
    """

    theta: float = 1.0

    name: ClassVar[str] = "unbiased-norm-test"
    reference: ClassVar[Citation | None] = SAMPLE_SIZE.at("section 3")
    needs: ClassVar[Needs] = Needs.NOISE

    def _conditions(self, now: StepContext) -> list[Condition]:
        scale = now.known_noise_scale
        return [Condition(scale, self.theta**2)] if 0 < scale < math.inf else []
