"""The base of batch-size schedules: the size depends on the position of the run, on nothing measured."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from ...decision import Decision, Needs, Plan, StepContext
from ..stages import RunPosition


@dataclass(frozen=True, slots=True)
class BatchSizeScheduleState:
    """The size decided, and the samples the whole run will consume where that was known at its start."""

    batch_size: int
    total_samples: int | None


@dataclass(frozen=True, slots=True)
class BatchSizeSchedule(ABC):
    """A schedule b(s): the size of a batch is a function of the samples consumed before it.

    Counting samples and not steps makes the position independent of the sizes. A run resumed with more epochs uses its
    new length. A subclass gives b in `_size`; sizes are limited to 1 and the data.
    """

    needs: ClassVar[Needs] = Needs.NOTHING
    enlarges_current: ClassVar[bool] = False

    def start(self, plan: Plan) -> tuple[Decision, BatchSizeScheduleState]:
        """Decide the first batch."""
        batch_size = self._at(RunPosition(0, plan.train_samples, plan.total_samples))
        decision = Decision(batch_size, code="initial", reason=f"the schedule starts with {batch_size} samples")
        return decision, BatchSizeScheduleState(batch_size, plan.total_samples)

    def decide(self, now: StepContext, state: BatchSizeScheduleState) -> tuple[Decision, BatchSizeScheduleState]:
        """Move to the size of the next batch."""
        total = now.total_samples or state.total_samples
        position = RunPosition(now.samples + now.batch_size, now.train_samples, total)
        batch_size = self._at(position)
        if batch_size == state.batch_size:
            return Decision(code="held", reason=f"hold: the schedule stays at {batch_size} samples"), state
        reason = f"the schedule sets {batch_size} after {position.samples} samples, {position.epoch:.2f} epochs"
        return Decision(batch_size, code="schedule", reason=reason), BatchSizeScheduleState(
            batch_size, state.total_samples
        )

    @abstractmethod
    def _size(self, position: RunPosition) -> int:
        """The size of the batch at that position."""

    def _at(self, position: RunPosition) -> int:
        return max(1, min(self._size(position), position.train_samples))
