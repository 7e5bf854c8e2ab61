"""Schedule-free averaging with a rate that you chose."""

from dataclasses import dataclass
from typing import ClassVar

from ...decision import Decision, Needs, Plan, Search, Stateless, StepContext
from ...ranges import require_number

FIRST = 0.0025


@dataclass(frozen=True, slots=True)
class ScheduleFreeLR:
    """Keep one rate and evaluate and ship the average of the iterates, instead of letting the rate decay.

        y = β·x + (1 - β)·z,    z <- z - η·d(∇F(y)),    x <- x + (w/Σw)·(z - x),    w = η²·b

    | symbol | argument | meaning |
    |---|---|---|
    | η | lr | the rate; larger than the best constant one without averaging |
    | z | | what the optimizer steps, d being its direction |
    | x | | the average: evaluated and shipped |
    | y | | where gradients are taken; β = 0.9 |

    The averaging replaces momentum: give Adam with beta1 = 0, or SGD without momentum. Warm-up, which Adam wants, is a
    rule around this one.

    Args:
        lr: η; None takes the optimizer's own, or 0.0025, the authors' for Adam, where that is 0.

    Raises:
        InputError: not a finite number above 0.

    Reference: A. Defazio, X. Yang, H. Mehta, K. Mishchenko, A. Khaled, A. Cutkosky, "The Road Less Scheduled" (NeurIPS
    2024; arXiv 2405.15682), eqs. (3)-(5). Differs: the weights count the samples, since the batch may change, and use
    the present rate instead of the largest so far.
    """

    lr: float | None = None

    name: ClassVar[str] = "schedule-free"
    needs: ClassVar[Needs] = Needs.NOTHING
    searches: ClassVar[bool] = False
    averages: ClassVar[bool] = True
    guards: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        if self.lr is not None:
            require_number("ScheduleFreeLR.lr", self.lr, above=0)

    def start(self, plan: Plan) -> tuple[Decision, Stateless]:
        """Set the rate, once."""
        rate = (plan.lr or FIRST) if self.lr is None else self.lr
        return Decision(lr=float(rate), reason="the rate is constant, the iterates averaged"), Stateless()

    def decide(self, now: StepContext, state: Stateless) -> Search:
        """Leave the rate as it is."""
        yield from ()
        return Decision(reason="the rate is constant, the iterates averaged"), state
