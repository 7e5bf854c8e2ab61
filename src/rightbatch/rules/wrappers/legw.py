"""LEGW: the square root of the batch size, and a warm-up that lasts longer in proportion."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ...citation import Citation
from ...decision import StepContext
from ...ranges import require_number
from .batch_scaled import BatchScaled


@dataclass(frozen=True, slots=True)
class LEGW(BatchScaled):
    """Scale the rate with the root of the batch size and warm up linearly, over epochs in proportion to the batch size.

        η(b) = η · sqrt(k) · min(1, e/(w·k)),    k = b/b0

    so that the warm-up has as many steps at every batch size.

    | symbol | argument | meaning |
    |---|---|---|
    | η | rule | rate, or rule for the rate, of the batch b0 |
    | b0 | at | the batch it was found for |
    | b | batch_size | the current batch |
    | w | warmup_epochs | epochs of warm-up at b0 |
    | e | epoch | passes over the data, the current batch included |

    If the batch size changes during the warm-up, the present one counts.

    Args:
        rule: the rule within, or its text or number; by default the optimizer's own rate.
        at: b0; None is the first batch of the run.
        warmup_epochs: w; a batch of b takes w·b/b0. The default is ours.

    Raises:
        InputError: a setting out of its range, or a rule within that computes the rate for each batch itself.

    Reference: You et al. 2019, "linear-epoch gradual warm-up".
    """

    warmup_epochs: float = 0.1

    name: ClassVar[str] = "legw"
    reference: ClassVar[Citation | None] = Citation(
        ("Y. You", "J. Hseu", "C. Ying", "J. Demmel", "K. Keutzer", "C.-J. Hsieh"),
        "Large-Batch Training for LSTM and Beyond",
        2019,
        "SC; arXiv 1901.08292",
    )

    def __post_init__(self) -> None:
        """Build the rule within and check the settings."""
        BatchScaled.__post_init__(self)
        require_number("LEGW.warmup_epochs", self.warmup_epochs, above=0)

    def _factor(self, now: StepContext, at: int) -> float:
        ratio = now.batch_size / at
        seen = (now.samples + now.batch_size) / now.train_samples
        return math.sqrt(ratio) * min(1.0, seen / (self.warmup_epochs * ratio))
