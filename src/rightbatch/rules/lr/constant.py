"""A learning rate that the user chooses."""

from dataclasses import dataclass, replace
from typing import ClassVar

from ...citation import Citation
from ...decision import Decision, Needs, Plan, Search, Stateless, StepContext
from ...ranges import require_number

CONSTANT = Decision(code="constant", reason="the learning rate is constant")


@dataclass(frozen=True, slots=True)
class Constant:
    """Use the same learning rate throughout.

    Args:
        lr: None leaves the optimizer's own, with any scheduler on it.

    Raises:
        InputError: not a finite number above 0.
    """

    lr: float | None = None

    name: ClassVar[str] = "constant"
    reference: ClassVar[Citation | None] = None
    needs: ClassVar[Needs] = Needs.NOTHING
    searches: ClassVar[bool] = False
    averages: ClassVar[bool] = False
    guards: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.lr is not None:
            require_number("The learning rate", self.lr, above=0)

    def start(self, plan: Plan) -> tuple[Decision, Stateless]:
        """Set the learning rate, once."""
        if self.lr is None:
            return CONSTANT, Stateless()
        return replace(CONSTANT, lr=float(self.lr)), Stateless()

    def decide(self, now: StepContext, state: Stateless) -> Search:
        """Leave the learning rate unchanged."""
        yield from ()
        return CONSTANT, state
