"""The learning rate you chose."""

from dataclasses import dataclass
from typing import ClassVar

from ...decision import Decision, Needs, Plan, Search, Stateless, StepContext
from ...ranges import require_number

KEEP = Decision(reason="the learning rate is constant")


@dataclass(frozen=True, slots=True)
class Constant:
    """The same learning rate throughout.

    Args:
        lr: None leaves the optimizer's own, with any schedule set on it.

    Raises:
        InputError: not a finite number above 0.
    """

    lr: float | None = None

    name: ClassVar[str] = "constant"
    needs: ClassVar[Needs] = Needs.NOTHING
    searches: ClassVar[bool] = False
    averages: ClassVar[bool] = False
    guards: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        if self.lr is not None:
            require_number("The learning rate", self.lr, above=0)

    def start(self, plan: Plan) -> tuple[Decision, Stateless]:
        """Set the learning rate, once."""
        if self.lr is None:
            return KEEP, Stateless()
        return Decision(lr=float(self.lr), reason=KEEP.reason), Stateless()

    def decide(self, now: StepContext, state: Stateless) -> Search:
        """Leave the learning rate as it is."""
        yield from ()
        return KEEP, state
