"""What the step rules have in common that are functions of the samples consumed, whatever the batches."""

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
        total_samples: samples of the whole run, where that was known.
        settings: the optimizer's.
    """

    lr: float
    total_samples: int | None
    settings: dict[str, float]


@dataclass(frozen=True, slots=True)
class LRSchedule(ABC):
    """A learning rate η(s) = η0 · share(s), s the samples consumed before the batch.

    Counted in samples it keeps its place when the batch changes; a run taken up again with more epochs than at first
    is as long as it is then. A subclass gives the share in `_share`, and what
    else it sets in `_settings`; one that needs the length of the run says so by `needs_total`.

    Args:
        lr: η0; None takes the optimizer's own at the start.

    Raises:
        InputError: not above 0; or, when a run starts, no learning rate from anywhere.
    """

    lr: float | None = None

    needs: ClassVar[Needs] = Needs.NOTHING
    searches: ClassVar[bool] = False
    averages: ClassVar[bool] = False
    guards: ClassVar[bool] = False
    needs_total: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        if self.lr is not None:
            require_number(f"{type(self).__name__}.lr", self.lr, above=0)

    def start(self, plan: Plan) -> tuple[Decision, LRScheduleState]:
        """Begin at the first stage."""
        base = float(plan.lr if self.lr is None else self.lr)
        if not base > 0:
            raise InputError(
                f"{self._title()} has a learning rate of {base:g} to schedule: set lr, or the optimizer's, above 0."
            )
        total = plan.total_samples
        if self.needs_total:
            total = require_total(self._title(), self._given_total(plan.train_samples), total)
        rate = base * self._share(RunPosition(0, plan.train_samples, total))
        settings = self._settings(0, total, plan.settings)
        reason = f"the schedule begins at {rate:g}"
        return Decision(lr=rate, reason=reason, settings=settings), LRScheduleState(base, total, dict(plan.settings))

    def decide(self, now: StepContext, state: LRScheduleState) -> Search:
        """Set the rate of the current batch."""
        yield from ()
        total = self._given_total(now.train_samples) or now.total_samples or state.total_samples
        rate = state.lr * self._share(RunPosition(now.samples, now.train_samples, total))
        settings = self._settings(now.samples, total, state.settings)
        reason = f"after {now.samples} samples the schedule says {rate:.4g}"
        return Decision(lr=rate, reason=reason, settings=settings), state

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
        """The length of the run in samples, where the rule was given it."""
        return None
