"""A batch size that the user chooses."""

from dataclasses import dataclass, replace
from typing import ClassVar

from ...citation import Citation
from ...decision import Decision, Needs, Plan, Stateless, StepContext
from ...errors import InputError
from ...ranges import require_whole

FIXED = Decision(code="fixed", reason="the batch size is fixed")


@dataclass(frozen=True)
class Fixed:
    """Use the same number of samples in every batch.

    Args:
        batch_size: b.

    Raises:
        InputError: not a whole number of at least 1; when a run starts, more samples than the training set has.
    """

    batch_size: int

    name: ClassVar[str] = "fixed"
    reference: ClassVar[Citation | None] = None
    needs: ClassVar[Needs] = Needs.NOTHING
    enlarges_current: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the settings."""
        require_whole("The batch size", self.batch_size, least=1)

    def start(self, plan: Plan) -> tuple[Decision, Stateless]:
        """Decide the first batch; refuse a batch larger than the data."""
        if self.batch_size > plan.train_samples:
            raise InputError(
                f"The batch size is {self.batch_size} but the training set has only {plan.train_samples} samples: "
                f"give at most {plan.train_samples}."
            )
        return replace(FIXED, batch_size=int(self.batch_size)), Stateless()

    def decide(self, now: StepContext, state: Stateless) -> tuple[Decision, Stateless]:
        """Hold the batch size."""
        return FIXED, state
