"""The linear scaling rule."""

from dataclasses import dataclass
from typing import ClassVar

from ...decision import StepContext
from .batch_scaled import BatchScaled


@dataclass(frozen=True, slots=True)
class LinearScaling(BatchScaled):
    """Scale the rate in proportion to the batch, η(b) = η · b/b0.

    For SGD, with momentum or without, while b is well below the noise scale: k steps with small batches then come to
    one with a batch k times as large. `noise-scaled` with `at` is the same rule beyond that limit.

    | symbol | argument | meaning |
    |---|---|---|
    | η | rule | rate, or rule for the rate, of the batch b0 |
    | b0 | at | the batch it was found for |
    | b | batch_size | the current batch |

    Args:
        rule: the rule within, or its text or number; by default the optimizer's own rate.
        at: b0; None is the first batch of the run.

    Raises:
        InputError: a setting out of its range, or a rule within that finds the step for each batch itself.

    Reference: P. Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour" (arXiv 1706.02677, 2017),
    section 2.1. Its gradual warm-up, five epochs from η to η·k, is a rule of its own around this one.
    """

    name: ClassVar[str] = "linear-scaling"

    def _factor(self, now: StepContext, at: int) -> float:
        return now.batch_size / at
