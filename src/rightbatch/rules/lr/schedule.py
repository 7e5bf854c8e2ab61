"""The base of learning-rate schedules: functions of the samples consumed, whatever the batch sizes."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ...decision import NO_EVIDENCE, Decision, Needs, Plan, Search, StepContext
from ...errors import InputError
from ...ranges import require_number
from ..stages import RunPosition, require_total


@dataclass(frozen=True, slots=True)
class LRScheduleState:
    """What a schedule remembers of the start of the run.

    Args:
        lr: η0.
        total_samples: samples of the whole run, if known.
        settings: the optimizer's.
    """

    lr: float
    total_samples: int | None
    settings: dict[str, float]


@dataclass(frozen=True, slots=True)
class LRSchedule(ABC):
    """A learning rate η(s) = η0 · share(s), s the samples consumed before the batch.

    Counting samples makes the position independent of the batch sizes. A run resumed with more epochs uses its new
    length. A subclass gives the share in `_share` and other settings in `_settings`; one that needs the length of the
    run sets `needs_total`.

    Args:
        lr: η0; None takes the optimizer's own at the start.

    Raises:
        InputError: not above 0; when a run starts, no learning rate.
    """

    lr: float | None = None

    needs: ClassVar[Needs] = Needs.NOTHING
    searches: ClassVar[bool] = False
    averages: ClassVar[bool] = False
    guards: ClassVar[bool] = False
    needs_total: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.lr is not None:
            require_number(f"{type(self).__name__}.lr", self.lr, above=0)

    def start(self, plan: Plan) -> tuple[Decision, LRScheduleState]:
        """Start at the first stage."""
        base = float(plan.lr if self.lr is None else self.lr)
        if not base > 0:
            raise InputError(
                f"{self._title()} has a learning rate of {base:g} to schedule: give it, or the optimizer, one above 0."
            )
        total = plan.total_samples
        if self.needs_total:
            total = require_total(self._title(), self._given_total(plan.train_samples), total)
        rate = base * self._share(RunPosition(0, plan.train_samples, total))
        settings = self._settings(0, total, plan.settings)
        reason = f"the schedule starts at {rate:g}"
        return Decision(lr=rate, code="initial", reason=reason, settings=settings), LRScheduleState(
            base, total, dict(plan.settings)
        )

    def decide(self, now: StepContext, state: LRScheduleState) -> Search:
        """Set the rate of the current batch."""
        yield from ()
        total = self._given_total(now.train_samples) or now.total_samples or state.total_samples
        rate = state.lr * self._share(RunPosition(now.samples, now.train_samples, total))
        settings = self._settings(now.samples, total, state.settings)
        reason = f"the schedule sets {rate:.4g} after {now.samples} samples"
        return Decision(lr=rate, code="schedule", reason=reason, settings=settings), state

    def _title(self) -> str:
        """What the rule is called in messages."""
        return type(self).__name__

    @abstractmethod
    def _share(self, at: RunPosition) -> float:
        """η/η0 at a position of the run."""

    def _settings(self, samples: int, total_samples: int | None, known: Mapping[str, float]) -> Mapping[str, float]:
        """Settings of the optimizer at that place; `known` are those that it has."""
        return NO_EVIDENCE

    def _given_total(self, train_samples: int) -> int | None:
        """The length of the run in samples, if the rule has a setting for it."""
        return None
