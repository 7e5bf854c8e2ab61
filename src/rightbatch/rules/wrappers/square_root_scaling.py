"""The square-root scaling rule."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ...citation import Citation
from ...decision import StepContext
from .batch_scaled import BatchScaled


@dataclass(frozen=True, slots=True)
class SquareRootScaling(BatchScaled):
    """Scale the rate with the root of the batch size, η(b) = η · sqrt(b/b0).

    This preserves the variance of a step of SGD. For Adam and similar optimizers it is the right rate while noise
    dominates, but only together with their other settings: `sde` changes these too.

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

    Reference: Krizhevsky 2014, section 5.
    """

    name: ClassVar[str] = "square-root-scaling"
    reference: ClassVar[Citation | None] = Citation(
        ("A. Krizhevsky",),
        "One Weird Trick for Parallelizing Convolutional Neural Networks",
        2014,
        "arXiv 1404.5997",
        "section 5",
    )

    def _factor(self, now: StepContext, at: int) -> float:
        return math.sqrt(now.batch_size / at)
