"""The step size you chose."""

from dataclasses import dataclass
from typing import ClassVar

from ...decision import Decision, Needs, Plan, Search, Situation, Stateless
from ...ranges import require_number

KEEP = Decision(reason="the step size is constant")


@dataclass(frozen=True, slots=True)
class Constant:
    """The same step size throughout.

    Args:
        learning_rate: None leaves the optimizer's own, with any schedule set on it.

    Raises:
        InputError: not a finite number above 0.
    """

    learning_rate: float | None = None

    name: ClassVar[str] = "constant"
    needs: ClassVar[Needs] = Needs.NOTHING
    searches: ClassVar[bool] = False
    averages: ClassVar[bool] = False
    guards: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        if self.learning_rate is not None:
            require_number("The step size", self.learning_rate, above=0)

    def start(self, plan: Plan) -> tuple[Decision, Stateless]:
        """Set the step size, once."""
        if self.learning_rate is None:
            return KEEP, Stateless()
        return Decision(learning_rate=float(self.learning_rate), reason=KEEP.reason), Stateless()

    def decide(self, now: Situation, state: Stateless) -> Search:
        """Leave the step size as it is."""
        yield from ()
        return KEEP, state
