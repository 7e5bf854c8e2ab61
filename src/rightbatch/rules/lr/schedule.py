"""What the step rules have in common that are functions of the examples consumed, whatever the batches."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ...decision import NO_EVIDENCE, Decision, Needs, Plan, Search, Situation
from ...errors import InputError
from ...ranges import require_number
from ..stages import require_total


@dataclass(frozen=True, slots=True)
class ScheduleState:
    """What a schedule remembers of the start of the run.

    Args:
        learning_rate: η0.
        total_samples: examples of the whole run, where that was known.
        settings: the optimizer's.
    """

    learning_rate: float
    total_samples: int | None
    settings: dict[str, float]


@dataclass(frozen=True, slots=True)
class Schedule(ABC):
    """A learning rate η(s) = η0 · share(s), s the examples consumed before the batch.

    Counted in examples it keeps its place when the batch changes; a run taken up again with more epochs than at first
    is as long as it is then. A subclass gives the share in `_share`, and what
    else it sets in `_settings`; one that needs the length of the run says so by `needs_total`.

    Args:
        learning_rate: η0; None takes the optimizer's own at the start.

    Raises:
        InputError: not above 0; or, when a run starts, no learning rate from anywhere.
    """

    learning_rate: float | None = None

    needs: ClassVar[Needs] = Needs.NOTHING
    searches: ClassVar[bool] = False
    averages: ClassVar[bool] = False
    guards: ClassVar[bool] = False
    needs_total: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        if self.learning_rate is not None:
            require_number(f"{type(self).__name__}.learning_rate", self.learning_rate, above=0)

    def start(self, plan: Plan) -> tuple[Decision, ScheduleState]:
        """Begin at the first stage."""
        base = float(plan.learning_rate if self.learning_rate is None else self.learning_rate)
        if not base > 0:
            who = type(self).__name__
            raise InputError(
                f"{who} has a learning rate of {base:g} to schedule: give it a learning_rate or the optimizer one "
                "above 0."
            )
        total = plan.total_samples
        if self.needs_total:
            total = require_total(type(self).__name__, self._given_total(plan.train_samples), total)
        rate = base * self._share(0, plan.train_samples, total)
        settings = self._settings(0, total, plan.settings)
        reason = f"the schedule begins at {rate:g}"
        return Decision(learning_rate=rate, reason=reason, settings=settings), ScheduleState(
            base, total, dict(plan.settings)
        )

    def decide(self, now: Situation, state: ScheduleState) -> Search:
        """Set the rate of the current batch."""
        yield from ()
        total = self._given_total(now.train_samples) or now.total_samples or state.total_samples
        rate = state.learning_rate * self._share(now.samples, now.train_samples, total)
        settings = self._settings(now.samples, total, state.settings)
        reason = f"after {now.samples} examples the schedule says {rate:.4g}"
        return Decision(learning_rate=rate, reason=reason, settings=settings), state

    @abstractmethod
    def _share(self, samples: int, train_samples: int, total_samples: int | None) -> float:
        """η/η0 for a batch before which `samples` examples were consumed."""

    def _settings(self, samples: int, total_samples: int | None, known: Mapping[str, float]) -> Mapping[str, float]:
        """Settings of the optimizer at that place; `known` are those that it has."""
        return NO_EVIDENCE

    def _given_total(self, train_samples: int) -> int | None:
        """The length of the run in examples, where the rule was given it."""
        return None
