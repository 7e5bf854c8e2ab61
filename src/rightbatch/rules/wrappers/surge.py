"""The surge of the best rate of sign-like optimizers: it rises up to the noise scale and falls beyond."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ...citation import Citation
from ...decision import Needs, StepContext
from .batch_scaled import BatchScaled


@dataclass(frozen=True, slots=True)
class Surge(BatchScaled):
    """Scale the rate of Adam and similar by f(b)/f(b0), f(b) = 2/(sqrt(B/b) + sqrt(b/B)), which peaks at b = B.

    Below the noise scale this is the square-root rule; beyond it the best rate falls again. For optimizers whose step
    is close to the sign of the gradient, such as Adam; for SGD see `noise-scaled`.

    | symbol | argument | meaning |
    |---|---|---|
    | η | rule | rate, or rule for the rate, of the batch b0 |
    | b0 | at | the batch it was found for |
    | b | batch_size | the current batch |
    | B | noise.noise_scale | gradient noise scale |

    The noise scale is the smoothed one; while its upper end is infinite, its lower end counts. Until it is measured,
    the rate is that of the rule within.

    Args:
        rule: the rule within, or its text or number; by default the optimizer's own rate.
        at: b0; None is the first batch of the run.

    Raises:
        InputError: a setting out of its range, or a rule within that computes the rate for each batch itself.

    Reference: Li et al. 2024. Differs: its B is defined for the sign of each weight's gradient and fitted to runs; here
        it
    is the measured noise scale, with `noise="...(preconditioned=True)"` in the optimizer's own metric.
    """

    name: ClassVar[str] = "surge"
    reference: ClassVar[Citation | None] = Citation(
        ("S. Li", "et al."),
        "Surge Phenomenon in Optimal Learning Rate and Batch Size Scaling",
        2024,
        "NeurIPS; arXiv 2405.14578",
    )

    @property
    def needs(self) -> Needs:
        """The smoothed noise, and what the rule within needs."""
        return self.within.needs | Needs.NOISE

    def _factor(self, now: StepContext, at: int) -> float:
        if now.batch_size == at:
            return 1.0
        scale = now.known_noise_scale
        if not 0 < scale < math.inf:
            return math.nan
        return _shape(now.batch_size / scale) / _shape(at / scale)


def _shape(x: float) -> float:
    return 2 / (math.sqrt(1 / x) + math.sqrt(x))
