"""DoG: distance over gradients."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ...decision import Decision, Needs, Plan, Search, StepContext
from ...errors import UnsupportedError
from ...ranges import require_number

LEAST_SQUARES = 1e-8


@dataclass(frozen=True, slots=True)
class DistanceState:
    """r̄, the farthest the parameters have been, and the sum under the root."""

    farthest: float
    squares: float


@dataclass(frozen=True, slots=True)
class DoG:
    """Step by the distance travelled over the root of the summed squared gradients, η_t = r̄_t/sqrt(Σ_{i<=t} ‖g_i‖²).

    | symbol | argument | meaning |
    |---|---|---|
    | r̄_t | distance | the most of ‖x_i - x_0‖, i <= t, and of r_ε |
    | r_ε | relative_start | r_ε = relative_start · (1 + ‖x_0‖), the first movement |
    | g_i | gradient_norm2 | the gradient of batch i |

    The iterate to use is an average of those visited: the last one scatters, and the paper reports averages throughout.
    This rule trains the last; `averaged-distance` is the one of this kind that averages. A bad first batch counts for
    ever: restart the rule for another phase of training. A gradient that is not finite is left out.

    Args:
        relative_start: 1e-6; 1e-4 for models with batch normalisation.
        scale: multiplies the step; 1 is the paper's.

    Raises:
        InputError: a setting out of its range.
        UnsupportedError: when a run starts, an optimizer that does not step along the gradient.

    Reference: M. Ivgi, O. Hinder, Y. Carmon, "DoG is SGD's Best Friend: A Parameter-Free Dynamic Step Size Schedule"
    (ICML 2023; arXiv 2302.12022), eq. (1), with 1e-8 added under the root.
    """

    relative_start: float = 1e-6
    scale: float = 1.0

    name: ClassVar[str] = "dog"
    needs: ClassVar[Needs] = Needs.DISTANCE
    searches: ClassVar[bool] = False
    averages: ClassVar[bool] = False
    guards: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        require_number(f"{type(self).__name__}.relative_start", self.relative_start, above=0)
        require_number(f"{type(self).__name__}.scale", self.scale, above=0)

    def start(self, plan: Plan) -> tuple[Decision, DistanceState]:
        """Begin at r_ε, as for a gradient of length 1, until there is one."""
        require_gradient_steps(self.name, plan)
        first = self.relative_start * (1 + plan.parameter_norm)
        reason = f"the first step moves the parameters by {self.scale * first:.2g}"
        return Decision(lr=self.scale * first, reason=reason), DistanceState(first, 0.0)

    def decide(self, now: StepContext, state: DistanceState) -> Search:
        """The step after one more distance and one more gradient."""
        yield from ()
        distance = 0.0 if now.distance is None or not math.isfinite(now.distance) else now.distance
        farthest = max(state.farthest, distance)
        if not 0 < now.gradient_norm2 < math.inf:
            return Decision(reason="keep: no gradient to count"), DistanceState(farthest, state.squares)
        squares = state.squares + self._weight(farthest) * now.gradient_norm2
        step = self.scale * self._step(farthest, squares)
        reason = f"came as far as {farthest:.3g}: step of {step:.3g}"
        evidence = {"farthest": farthest, "squares": squares}
        return Decision(lr=step, reason=reason, evidence=evidence), DistanceState(farthest, squares)

    def _weight(self, farthest: float) -> float:
        """What a squared gradient counts in the sum."""
        return 1.0

    def _step(self, farthest: float, squares: float) -> float:
        return farthest / math.sqrt(squares + LEAST_SQUARES)


def require_gradient_steps(name: str, plan: Plan) -> None:
    """Refuse an optimizer that does not step along the gradient; one that is not known passes.

    Raises:
        UnsupportedError: its class is not SGD, nor one of its kin by its name; Schedule-Free SGD averages.
    """
    name_of = plan.optimizer.upper()
    if name_of and ("SGD" not in name_of or "SCHEDULEFREE" in name_of):
        raise UnsupportedError(
            f"The step rule '{name}' works out the length of a step along the gradient, but {plan.optimizer} moves in "
            "another direction; use torch.optim.SGD (momentum allowed) or another step rule."
        )
