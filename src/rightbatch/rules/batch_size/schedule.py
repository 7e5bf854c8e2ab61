"""What batch-size schedules have in common: the size depends on where the run stands, on nothing measured."""

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
    """A schedule b(s): every batch has the size that belongs to the samples consumed before it.

    Counting samples and not steps, it keeps its place whatever the sizes are; a run taken up again with more epochs
    than at first is as long as it is then. A subclass gives b in `_size`; sizes are
    kept within 1 and the data.
    """

    needs: ClassVar[Needs] = Needs.NOTHING
    enlarges_current: ClassVar[bool] = False

    def start(self, plan: Plan) -> tuple[Decision, BatchSizeScheduleState]:
        """Decide the first batch."""
        batch_size = self._at(RunPosition(0, plan.train_samples, plan.total_samples))
        return Decision(
            batch_size=batch_size, reason=f"the schedule begins with {batch_size} samples"
        ), BatchSizeScheduleState(batch_size, plan.total_samples)

    def decide(self, now: StepContext, state: BatchSizeScheduleState) -> tuple[Decision, BatchSizeScheduleState]:
        """Move to the size of the next batch."""
        total = now.total_samples or state.total_samples
        position = RunPosition(now.samples + now.batch_size, now.train_samples, total)
        batch_size = self._at(position)
        if batch_size == state.batch_size:
            return Decision(reason=f"hold: the schedule stays at {batch_size} samples"), state
        epochs = position.samples / position.train_samples
        reason = f"after {position.samples} samples, {epochs:.2f} epochs, the schedule says {batch_size}"
        return Decision(batch_size=batch_size, reason=reason), BatchSizeScheduleState(batch_size, state.total_samples)

    @abstractmethod
    def _size(self, position: RunPosition) -> int:
        """The size of a batch before which the run stands there."""

    def _at(self, position: RunPosition) -> int:
        return max(1, min(self._size(position), position.train_samples))
