"""The linear scaling rule."""

from dataclasses import dataclass
from typing import ClassVar

from ...citation import Citation
from ...decision import StepContext
from ..papers import ONE_HOUR
from .batch_scaled import BatchScaled


@dataclass(frozen=True, slots=True)
class LinearScaling(BatchScaled):
    """Scale the rate in proportion to the batch, η(b) = η · b/b0.

    For SGD, with momentum or without, while b is well below the noise scale: k steps with small batches are then worth
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
        InputError: a setting out of its range, or a rule within that computes the rate for each batch itself.

    Reference: Goyal et al. 2017, section 2.1. Its gradual warm-up, five epochs from η to η·k, is "warm-up" around this
    rule.
    """

    name: ClassVar[str] = "linear-scaling"
    reference: ClassVar[Citation | None] = ONE_HOUR.at("section 2.1")

    def _factor(self, now: StepContext, at: int) -> float:
        return now.batch_size / at
