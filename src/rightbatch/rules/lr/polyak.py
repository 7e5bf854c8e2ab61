"""The stochastic Polyak step."""

from dataclasses import dataclass
from typing import ClassVar

from ...citation import Citation
from ...decision import Decision, Needs, Plan, Search, StepContext
from ...ranges import require_number
from .backtracking import LEAST_GRADIENT_NORM2, PASS_GROWTH
from .dog import require_gradient_steps


@dataclass(frozen=True, slots=True)
class PolyakState:
    """The step last taken."""

    step: float


@dataclass(frozen=True, slots=True)
class Polyak:
    """Step in proportion to the loss above its smallest value, η = min((F - F*)/(c·‖g_B‖²), γ).

    | symbol | argument | meaning |
    |---|---|---|
    | F, g_B | loss, gradient_norm2 | loss of the current batch and its mean gradient |
    | F* | least_loss | the smallest possible loss of a batch |
    | c | c | 1/2 for convex losses |
    | γ | most | longest step; with `gradual` at most 2^(b/N) times the last |

    Assumes that every batch can be fitted: if the smallest loss of a batch is well above `least_loss`, the steps are
    too long and only γ limits them. If loss or gradient are not finite, the gradient is below 1e-8 or the loss not
    above F*, the last step holds.

    Args:
        least_loss: F*; 0 for cross-entropy and squared error on a model that fits its data.
        c: above 0; larger is shorter.
        most: γ, and the first step.
        gradual: limit a step to 2^(b/N) times the last, twice as long in a pass over the data.

    Raises:
        InputError: a setting out of its range.
        UnsupportedError: when a run starts, an optimizer that does not step along the gradient.

    Reference: Loizou et al. 2021, SPS_max, and its smoothing for deep networks.
    """

    least_loss: float = 0.0
    c: float = 0.5
    most: float = 1.0
    gradual: bool = True

    name: ClassVar[str] = "polyak"
    reference: ClassVar[Citation | None] = Citation(
        ("N. Loizou", "S. Vaswani", "I. Laradji", "S. Lacoste-Julien"),
        "Stochastic Polyak Step-Size for SGD: An Adaptive Learning Rate for Fast Convergence",
        2021,
        "AISTATS; arXiv 2002.10542",
    )
    needs: ClassVar[Needs] = Needs.NOTHING
    searches: ClassVar[bool] = False
    averages: ClassVar[bool] = False
    guards: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the settings."""
        require_number("Polyak.least_loss", self.least_loss)
        require_number("Polyak.c", self.c, above=0)
        require_number("Polyak.most", self.most, above=0)

    def start(self, plan: Plan) -> tuple[Decision, PolyakState]:
        """Start at the longest step."""
        require_gradient_steps(self.name, plan)
        reason = f"step in proportion to the loss above {self.least_loss:g}, at most {self.most:g}"
        return Decision(lr=float(self.most), code="initial", reason=reason), PolyakState(float(self.most))

    def decide(self, now: StepContext, state: PolyakState) -> Search:
        """Set the step for the current batch."""
        yield from ()
        gap = now.loss - self.least_loss
        if not (0 < gap < float("inf") and LEAST_GRADIENT_NORM2 < now.gradient_norm2 < float("inf")):
            return Decision(lr=state.step, code="no-slope", reason="hold: no loss above F*, or no slope"), state
        step = gap / (self.c * now.gradient_norm2)
        most = float(self.most)
        if self.gradual and now.step > 0:
            most = min(most, state.step * PASS_GROWTH ** (now.batch_size / now.train_samples))
        taken = min(step, most)
        reason = f"the loss is {gap:.3g} above its minimum: {step:.3g}"
        if taken < step:
            reason += f", at most {taken:.3g}"
        return Decision(lr=taken, code="loss-gap", reason=reason, evidence={"uncapped": step}), PolyakState(taken)
