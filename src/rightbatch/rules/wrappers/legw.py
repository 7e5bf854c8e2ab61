"""LEGW: the root of the batch, and a warm-up that lasts as many epochs the more."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ...decision import StepContext
from ...ranges import require_number
from .batch_scaled import BatchScaled


@dataclass(frozen=True, slots=True)
class LEGW(BatchScaled):
    """Scale the rate with the root of the batch and warm up linearly over epochs in proportion to it.

        η(b) = η · sqrt(k) · min(1, e/(w·k)),    k = b/b0

    so that the warm-up has as many steps at every batch size.

    | symbol | argument | meaning |
    |---|---|---|
    | η | rule | rate, or rule for the rate, of the batch b0 |
    | b0 | at | the batch it was found for |
    | b | batch_size | the current batch |
    | w | warmup_epochs | epochs of warm-up at b0 |
    | e | epoch | passes over the data, the current batch included |

    Where the batch changes during the warm-up, its size at the moment counts.

    Args:
        rule: the rule within, or its text or number; by default the optimizer's own rate.
        at: b0; None is the first batch of the run.
        warmup_epochs: w; a batch of b takes w·b/b0. Ours is the default.

    Raises:
        InputError: a setting out of its range, or a rule within that finds the step for each batch itself.

    Reference: Y. You, J. Hseu, C. Ying, J. Demmel, K. Keutzer, C.-J. Hsieh, "Large-Batch Training for LSTM and Beyond"
    (SC 2019; arXiv 1901.08292), "linear-epoch gradual warm-up".
    """

    warmup_epochs: float = 0.1

    name: ClassVar[str] = "legw"

    def __post_init__(self) -> None:
        """Build the rule within and refuse impossible settings."""
        BatchScaled.__post_init__(self)
        require_number("LEGW.warmup_epochs", self.warmup_epochs, above=0)

    def _factor(self, now: StepContext, at: int) -> float:
        ratio = now.batch_size / at
        seen = (now.samples + now.batch_size) / now.train_samples
        return math.sqrt(ratio) * min(1.0, seen / (self.warmup_epochs * ratio))
