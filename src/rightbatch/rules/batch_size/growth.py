"""A batch size that grows steadily from one value to another."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from ...citation import Citation
from ...decision import Decision, Plan
from ...ranges import require_choice, require_number, require_whole
from ..stages import RunPosition, require_total
from .schedule import BatchSizeSchedule, BatchSizeScheduleState

Shape = Literal["linear", "geometric"]


@dataclass(frozen=True, slots=True)
class Growth(BatchSizeSchedule):
    """Grow from b0 to b1 over S samples: linear, b0 + (b1 - b0)·u, or geometric, b0·(b1/b0)^u; u = min(1, s/S).

    | symbol | argument | meaning |
    |---|---|---|
    | b0, b1 | initial, last | first and last batch; a batch may also shrink |
    | s | samples | samples consumed before the batch |
    | S | over_epochs, over_samples | length of the growth; default: the whole run |

    The size changes at nearly every step; wrap it in "rounded" or "hysteresis" where that costs time.

    Args:
        initial: b0.
        last: b1.
        shape: "linear" or "geometric".
        over_epochs: S in passes over the data.
        over_samples: S in samples; takes precedence over over_epochs.

    Raises:
        InputError: a setting out of its range; when a run starts, its length neither given nor known.
    """

    initial: int = 32
    last: int = 512
    shape: Shape = "linear"
    over_epochs: float | None = None
    over_samples: int | None = None

    name: ClassVar[str] = "growth"
    reference: ClassVar[Citation | None] = None

    def __post_init__(self) -> None:
        """Check the settings."""
        require_whole("Growth.initial", self.initial, least=1)
        require_whole("Growth.last", self.last, least=1)
        require_choice("Growth.shape", self.shape, get_args(Shape))
        if self.over_epochs is not None:
            require_number("Growth.over_epochs", self.over_epochs, above=0)
        if self.over_samples is not None:
            require_whole("Growth.over_samples", self.over_samples, least=1)

    def start(self, plan: Plan) -> tuple[Decision, BatchSizeScheduleState]:
        """Decide the first batch; refuse a length that is not known."""
        self._length(RunPosition(0, plan.train_samples, plan.total_samples))
        return BatchSizeSchedule.start(self, plan)

    def _length(self, position: RunPosition) -> float:
        if self.over_samples is not None:
            return float(self.over_samples)
        if self.over_epochs is not None:
            return self.over_epochs * position.train_samples
        return float(require_total("Growth without over_epochs or over_samples", None, position.total_samples))

    def _size(self, position: RunPosition) -> int:
        share = min(1.0, position.samples / self._length(position))
        if self.shape == "linear":
            return round(self.initial + (self.last - self.initial) * share)
        return round(self.initial * math.pow(self.last / self.initial, share))
