"""Seesaw: where a schedule would halve the rate, double the batch and take only the root off the rate."""

from dataclasses import dataclass
from typing import ClassVar

from ...decision import Decision, Plan
from ...ranges import require_number, require_whole
from ..stages import cosine_cuts, grown, require_total
from .schedule import Course, Schedule, ScheduleState


@dataclass(frozen=True, slots=True)
class Seesaw(Schedule):
    """Multiply the batch by α whenever cosine decay would have cut the rate by α, b = b0 · α^k.

        k = ⌊-log_α cos(π/2 · s/S)⌋

    | symbol | argument | meaning |
    |---|---|---|
    | b0 | initial | first batch; the critical batch size, in the paper |
    | α | factor | the cut |
    | s | samples | samples consumed before the batch |
    | S | total_samples | samples the whole run will consume |

    The step rule "seesaw", given the same settings, takes sqrt(α) off the rate at each cut, so that η·sqrt(b)
    stays and η/sqrt(b) falls by α as it would have by the rate alone: what counts for Adam and other normalised steps
    as long as noise dominates the gradient. As α approaches 1 the run takes 2/π of the steps at a fixed batch. From
    where the batch may not grow any more, the rate takes the whole cut.

    Args:
        initial: b0.
        factor: α, above 1.
        total_samples: S; None takes it from the run.
        max_size: largest batch; None is all the data.

    Raises:
        InputError: a setting out of its range, or, when a run starts, S not known.

    Reference: A. Meterez, D. Morwani, J. Wu, C.-A. Oncescu, C. Pehlevan, S. Kakade, "Seesaw: Accelerating Training by
    Balancing Learning Rate and Batch Size Scheduling" (arXiv 2510.14717, 2025). The cap is ours. A warm-up before the
    decay is not part of this rule.
    """

    initial: int = 128
    factor: float = 2.0
    total_samples: int | None = None
    max_size: int | None = None

    name: ClassVar[str] = "seesaw"

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        require_whole("Seesaw.initial", self.initial, least=1)
        require_number("Seesaw.factor", self.factor, above=1)
        for name, value in (("total_samples", self.total_samples), ("max_size", self.max_size)):
            if value is not None:
                require_whole(f"Seesaw.{name}", value, least=1)

    def start(self, plan: Plan) -> tuple[Decision, ScheduleState]:
        """Decide the first batch; refuse a run of unknown length."""
        require_total("Seesaw", self.total_samples, plan.total_samples)
        return Schedule.start(self, plan)

    def _size(self, course: Course) -> int:
        total = require_total("Seesaw", self.total_samples, course.total_samples)
        most = course.train_samples if self.max_size is None else min(self.max_size, course.train_samples)
        return grown(self.initial, self.factor, cosine_cuts(course.samples / total, self.factor), most)
