"""Schedule-free averaging at a learning rate that the user chooses."""

from dataclasses import dataclass, replace
from typing import ClassVar

from ...citation import Citation
from ...decision import Decision, Needs, Plan, Search, Stateless, StepContext
from ...ranges import require_number

DEFAULT_LR = 0.0025
AVERAGED = Decision(code="constant", reason="the rate is constant, the iterates are averaged")


@dataclass(frozen=True, slots=True)
class ScheduleFreeLR:
    """Use one learning rate, and the average of the iterates in place of a decay.

        y = β·x + (1 - β)·z,    z <- z - η·d(∇F(y)),    x <- x + (w/Σw)·(z - x),    w = η²·b

    | symbol | argument | meaning |
    |---|---|---|
    | η | lr | learning rate; larger than the best constant one without averaging |
    | z | | the iterate that the optimizer steps, d its direction |
    | x | | the average, for evaluation and as the final model |
    | y | | where gradients are taken; β = 0.9 |

    The averaging replaces momentum: use Adam with beta1 = 0, or SGD without momentum. The warm-up that Adam needs is a
    rule around this one.

    Args:
        lr: η; None takes the optimizer's own, or where that is 0 the authors' 0.0025 for Adam.

    Raises:
        InputError: not a finite number above 0.

    Reference: Defazio et al. 2024, equations (3)-(5). Differs: the weights count the samples, since the batch size may
    change, and use the present rate instead of the largest so far.
    """

    lr: float | None = None

    name: ClassVar[str] = "schedule-free"
    reference: ClassVar[Citation | None] = Citation(
        ("A. Defazio", "X. Yang", "H. Mehta", "K. Mishchenko", "A. Khaled", "A. Cutkosky"),
        "The Road Less Scheduled",
        2024,
        "NeurIPS; arXiv 2405.15682",
        "equations (3)-(5)",
    )
    needs: ClassVar[Needs] = Needs.NOTHING
    searches: ClassVar[bool] = False
    averages: ClassVar[bool] = True
    guards: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.lr is not None:
            require_number("ScheduleFreeLR.lr", self.lr, above=0)

    def start(self, plan: Plan) -> tuple[Decision, Stateless]:
        """Set the rate, once."""
        rate = (plan.lr or DEFAULT_LR) if self.lr is None else self.lr
        return replace(AVERAGED, lr=float(rate)), Stateless()

    def decide(self, now: StepContext, state: Stateless) -> Search:
        """Leave the rate unchanged."""
        yield from ()
        return AVERAGED, state
