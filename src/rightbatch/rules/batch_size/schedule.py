"""What batch-size schedules have in common: the size depends on where the run stands, on nothing measured."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from ...decision import Decision, Needs, Plan, StepContext


@dataclass(frozen=True, slots=True)
class ScheduleState:
    """The size decided, and the samples the whole run will consume where that was known at its start."""

    batch_size: int
    total_samples: int | None


class Course(NamedTuple):
    """Where a run stands before a batch: the samples consumed, the training set's and the whole run's."""

    samples: int
    train_samples: int
    total_samples: int | None


@dataclass(frozen=True, slots=True)
class Schedule(ABC):
    """A schedule b(s): every batch has the size that belongs to the samples consumed before it.

    Counting samples and not steps, it keeps its place whatever the sizes are; a run taken up again with more epochs
    than at first is as long as it is then. A subclass gives b in `_size`; sizes are
    kept within 1 and the data.
    """

    needs: ClassVar[Needs] = Needs.NOTHING
    enlarges_current: ClassVar[bool] = False

    def start(self, plan: Plan) -> tuple[Decision, ScheduleState]:
        """Decide the first batch."""
        batch_size = self._at(Course(0, plan.train_samples, plan.total_samples))
        return Decision(batch_size=batch_size, reason=f"the schedule begins with {batch_size} samples"), ScheduleState(
            batch_size, plan.total_samples
        )

    def decide(self, now: StepContext, state: ScheduleState) -> tuple[Decision, ScheduleState]:
        """Move to the size of the next batch."""
        total = now.total_samples or state.total_samples
        course = Course(now.samples + now.batch_size, now.train_samples, total)
        batch_size = self._at(course)
        if batch_size == state.batch_size:
            return Decision(reason=f"hold: the schedule stays at {batch_size} samples"), state
        epochs = course.samples / course.train_samples
        reason = f"after {course.samples} samples, {epochs:.2f} epochs, the schedule says {batch_size}"
        return Decision(batch_size=batch_size, reason=reason), ScheduleState(batch_size, state.total_samples)

    @abstractmethod
    def _size(self, course: Course) -> int:
        """The size of a batch before which the run stands there."""

    def _at(self, course: Course) -> int:
        return max(1, min(self._size(course), course.train_samples))
