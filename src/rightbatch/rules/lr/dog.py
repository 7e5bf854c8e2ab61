"""DoG: distance over gradients."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ...citation import Citation
from ...decision import Decision, Needs, Plan, Search, StepContext
from ...errors import UnsupportedError
from ...ranges import require_number
from ..papers import DOG

LEAST_SQUARES = 1e-8


@dataclass(frozen=True, slots=True)
class DistanceState:
    """r̄, the largest distance so far, and the sum under the root."""

    farthest: float
    squares: float


@dataclass(frozen=True, slots=True)
class DoG:
    """Take the distance travelled over the root of the summed squared gradients, η_t = r̄_t/sqrt(Σ_{i<=t} ‖g_i‖²).

    | symbol | argument | meaning |
    |---|---|---|
    | r̄_t | distance | the largest of ‖x_i - x_0‖, i <= t, and r_ε |
    | r_ε | relative_start | r_ε = relative_start · (1 + ‖x_0‖), the first movement |
    | g_i | gradient_norm2 | the gradient of batch i |

    The paper evaluates an average of the iterates, as the last one scatters; this rule trains the last, and
    `averaged-distance` averages. A bad first batch counts forever: restart the rule for another phase of training. A
    gradient that is not finite does not count.

    Args:
        relative_start: the first movement relative to the parameters; 1e-4 for models with batch normalisation.
        scale: multiplies the step; 1 in the paper.

    Raises:
        InputError: a setting out of its range.
        UnsupportedError: when a run starts, an optimizer that does not step along the gradient.

    Reference: Ivgi, Hinder and Carmon 2023, equation (1), with 1e-8 added under the root.
    """

    relative_start: float = 1e-6
    scale: float = 1.0

    name: ClassVar[str] = "dog"
    reference: ClassVar[Citation | None] = DOG.at("equation (1)")
    needs: ClassVar[Needs] = Needs.DISTANCE
    searches: ClassVar[bool] = False
    averages: ClassVar[bool] = False
    guards: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the settings."""
        require_number(f"{type(self).__name__}.relative_start", self.relative_start, above=0)
        require_number(f"{type(self).__name__}.scale", self.scale, above=0)

    def start(self, plan: Plan) -> tuple[Decision, DistanceState]:
        """Start at r_ε, as for a gradient of length 1, until there is one."""
        require_gradient_steps(self.name, plan)
        first = self.relative_start * (1 + plan.parameter_norm)
        reason = f"the first step moves the parameters by {self.scale * first:.2g}"
        return Decision(lr=self.scale * first, code="initial", reason=reason), DistanceState(first, 0.0)

    def decide(self, now: StepContext, state: DistanceState) -> Search:
        """Add one distance and one gradient, and set the learning rate."""
        yield from ()
        distance = 0.0 if now.distance is None or not math.isfinite(now.distance) else now.distance
        farthest = max(state.farthest, distance)
        if not 0 < now.gradient_norm2 < math.inf:
            return Decision(code="no-slope", reason="hold: no gradient to count"), DistanceState(
                farthest, state.squares
            )
        squares = state.squares + self._weight(farthest) * now.gradient_norm2
        step = self.scale * self._step(farthest, squares)
        reason = f"largest distance from the start {farthest:.3g}: {step:.3g}"
        evidence = {"farthest": farthest, "squares": squares}
        return Decision(lr=step, code="distance", reason=reason, evidence=evidence), DistanceState(farthest, squares)

    def _weight(self, farthest: float) -> float:
        """The weight of a squared gradient in the sum."""
        return 1.0

    def _step(self, farthest: float, squares: float) -> float:
        return farthest / math.sqrt(squares + LEAST_SQUARES)


def require_gradient_steps(name: str, plan: Plan) -> None:
    """Refuse an optimizer that does not step along the gradient; an unknown one passes.

    Raises:
        UnsupportedError: the name of its class does not contain SGD, or it is Schedule-Free SGD, which averages.
    """
    name_of = plan.optimizer.upper()
    if name_of and ("SGD" not in name_of or "SCHEDULEFREE" in name_of):
        raise UnsupportedError(
            f"The lr rule '{name}' computes the length of a step along the gradient, but {plan.optimizer} moves in "
            "another direction: use torch.optim.SGD (momentum allowed) or another lr rule."
        )
