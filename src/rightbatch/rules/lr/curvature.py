"""The learning rate that the curvature along the gradient and the gradient noise allow."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ...citation import Citation
from ...decision import Decision, Needs, Plan, Search, StepContext, Trial
from ...ranges import require_number, require_whole
from ..papers import BIG_BATCH
from .backtracking import LEAST_GRADIENT_NORM2


@dataclass(frozen=True, slots=True)
class CurvatureState:
    """The step last decided; ν as last measured, nan before; steps since; the longest step until the next ν."""

    step: float
    curvature: float
    age_steps: int
    most: float


@dataclass(frozen=True, slots=True)
class CurvatureStep:
    """Set the learning rate by the curvature along the gradient and the noise in it, η = (a/ν)/(1 + B_noise/b).

    | symbol | argument | meaning |
    |---|---|---|
    | ν | outcome.curvature | ⟨Δx, Δg⟩/‖Δx‖² between x and x - η·g_B, both gradients on the current batch |
    | a | boldness | 1 is the best single step on a parabola with noise; 2 is better over several |
    | B_noise | noise.noise_scale | gradient noise scale; its lower end while its upper end is infinite |
    | b | batch_size | the current batch |

    Every `every` steps the rule differentiates the batch a second time, at the point to which the present step leads.
    On convex problems, well or badly conditioned, it needs no tuning; on neural networks it is short-sighted and falls
    behind a tuned rate. Until noise and curvature are known, and if ν is not positive and finite, the step holds.

    Args:
        initial: the step until the first curvature and noise are known.
        boldness: a.
        every: steps from one curvature to the next.
        growth: largest lengthening from one curvature to the next, as on flat ground the curvature of a short step says
            little about a long one. If the loss of the batch rose at the second point, the step shortens by as much.

    Raises:
        InputError: a setting out of its range.

    Reference: ν as in De et al. 2017, Algorithm 3; the noise as in McCandlish, Kaplan and Amodei 2018, section 2.
    Differs: ours are a = 2, the limit to growth, and that ν is measured only now and then.
    """

    initial: float = 0.01
    boldness: float = 2.0
    every: int = 10
    growth: float = 2.0

    name: ClassVar[str] = "curvature"
    reference: ClassVar[Citation | None] = BIG_BATCH.at("Algorithm 3")
    needs: ClassVar[Needs] = Needs.NOISE
    searches: ClassVar[bool] = True
    averages: ClassVar[bool] = False
    guards: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the settings."""
        require_number("CurvatureStep.initial", self.initial, above=0)
        require_number("CurvatureStep.boldness", self.boldness, above=0)
        require_whole("CurvatureStep.every", self.every, least=1)
        require_number("CurvatureStep.growth", self.growth, above=1)

    def start(self, plan: Plan) -> tuple[Decision, CurvatureState]:
        """Start at the first step."""
        first = float(self.initial)
        reason = f"start at {first:g} until curvature and noise are measured"
        return Decision(lr=first, code="initial", reason=reason), CurvatureState(first, math.nan, self.every, first)

    def decide(self, now: StepContext, state: CurvatureState) -> Search:
        """Measure the curvature if it is due, and step by it."""
        curvature, age, most = state.curvature, state.age_steps + 1, state.most
        sloping = math.isfinite(now.loss) and LEAST_GRADIENT_NORM2 < now.gradient_norm2 < math.inf
        if age > self.every and sloping:
            outcome = yield Trial(state.step, gradient=True)
            if 0 < outcome.curvature < math.inf:
                curvature, age = outcome.curvature, 1
                most = state.step * (self.growth if outcome.loss <= now.loss else 1 / self.growth)
        scale = now.known_noise_scale
        if not (curvature > 0 and 0 <= scale < math.inf):
            held = CurvatureState(state.step, curvature, age, most)
            return Decision(lr=state.step, code="not-measured", reason="hold: curvature or noise not known yet"), held
        step = min(most, self.boldness / curvature / (1 + scale / now.batch_size))
        reason = f"curvature {curvature:.3g}, noise scale {scale:.0f} at {now.batch_size} samples: {step:.3g}"
        evidence = {"curvature": curvature, "noise_scale": scale}
        return Decision(lr=step, code="curvature", reason=reason, evidence=evidence), CurvatureState(
            step, curvature, age, most
        )
