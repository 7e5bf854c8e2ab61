"""What the step rules have in common that accompany a batch-size schedule of the same name."""

from dataclasses import dataclass
from typing import ClassVar

from ..decision import Decision, Needs, Plan, Search, Situation
from ..errors import InputError
from ..ranges import require_number


@dataclass(frozen=True, slots=True)
class PairedState:
    """The learning rate the schedule begins with, and the examples of the whole run where known at its start."""

    learning_rate: float
    total_samples: int | None


@dataclass(frozen=True, slots=True)
class PairedSchedule:
    """A learning rate η(s) = η0 · share(s) that follows the same stages, counted in examples, as a batch-size schedule.

    It reads the stages off the examples consumed, not off the batch: give both rules the same settings. A subclass
    gives the share in `_share`.

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

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        if self.learning_rate is not None:
            require_number(f"{type(self).__name__}.learning_rate", self.learning_rate, above=0)

    def start(self, plan: Plan) -> tuple[Decision, PairedState]:
        """Begin at the first stage."""
        base = float(plan.learning_rate if self.learning_rate is None else self.learning_rate)
        if not base > 0:
            who = type(self).__name__
            raise InputError(
                f"{who} has a learning rate of {base:g} to schedule: give it a learning_rate or the optimizer one "
                "above 0."
            )
        rate = base * self._share(0, plan.train_samples, plan.total_samples)
        return Decision(learning_rate=rate, reason=f"the schedule begins at {rate:g}"), PairedState(
            base, plan.total_samples
        )

    def decide(self, now: Situation, state: PairedState) -> Search:
        """Set the rate of the current batch."""
        yield from ()
        rate = state.learning_rate * self._share(now.samples, now.train_samples, state.total_samples)
        return Decision(learning_rate=rate, reason=f"after {now.samples} examples the schedule says {rate:.4g}"), state

    def _share(self, samples: int, train_samples: int, total_samples: int | None) -> float:
        """η/η0 for a batch before which `samples` examples were consumed."""
        raise NotImplementedError
