"""The learning rate divided by one plus a multiple of the passes over the data."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ...citation import Citation
from ...ranges import require_number
from ..stages import RunPosition
from .schedule import LRSchedule


@dataclass(frozen=True, slots=True)
class InverseTime(LRSchedule):
    """Decay with the inverse of the time, η = η0 / (1 + k·e).

    | symbol | argument | meaning |
    |---|---|---|
    | η0 | lr | first rate |
    | k | decay | decay per pass over the data |
    | e | | passes over the data before the batch; whole ones with `staircase` |

    From 0.2 with decay 1: 0.1 after one pass, 0.067 after two, 0.05 after three.

    Args:
        lr: η0; None takes the optimizer's own at the start.
        decay: k.
        staircase: hold the rate within each pass.

    Raises:
        InputError: a setting out of its range.

    Reference: Robbins and Monro 1951, for steps of order 1/t.
    """

    decay: float = 1.0
    staircase: bool = False

    name: ClassVar[str] = "inverse-time"
    reference: ClassVar[Citation | None] = Citation(
        ("H. Robbins", "S. Monro"), "A Stochastic Approximation Method", 1951, "Annals of Mathematical Statistics 22"
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        LRSchedule.__post_init__(self)
        require_number("InverseTime.decay", self.decay, least=0)

    def _share(self, at: RunPosition) -> float:
        return 1 / (1 + self.decay * (math.floor(at.epoch) if self.staircase else at.epoch))
