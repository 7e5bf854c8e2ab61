"""The step that the curvature along the gradient and the gradient noise allow."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ...decision import Decision, Needs, Plan, Search, StepContext, Trial
from ...ranges import require_number, require_whole
from .backtracking import LEAST_GRADIENT_NORM2


@dataclass(frozen=True, slots=True)
class CurvatureState:
    """The step last decided; ν as last measured, nan before; steps since; the longest step until the next."""

    step: float
    curvature: float
    age_steps: int
    most: float


@dataclass(frozen=True, slots=True)
class CurvatureStep:
    """Step by the curvature along the gradient and the noise in it, η = (a/ν)/(1 + B_noise/b).

    | symbol | argument | meaning |
    |---|---|---|
    | ν | outcome.curvature | ⟨Δx, Δg⟩/‖Δx‖² between x and x - η·g_B, both gradients on the current batch |
    | a | boldness | 1 is the best single step on a parabola with noise; 2 looks ahead |
    | B_noise | noise.noise_scale | gradient noise scale; its lower end while its upper end is infinite |
    | b | batch_size | the current batch |

    Every `every` steps the batch is differentiated a second time, at the point to which a step of the present size
    leads. On well and badly conditioned convex problems it needs no tuning; on neural networks it is short-sighted and
    stays behind a tuned rate. Until noise and curvature are known, and where ν is not positive and finite, the step is
    kept.

    Args:
        initial: the step until the first curvature and noise are known.
        boldness: a.
        every: steps from one curvature to the next.
        growth: from one curvature to the next a step becomes at most so many times as long: where the ground is flat
            at first, the curvature a short step meets says little of what a long one will. Where the loss of the batch
            rose at the second point, it becomes at least so many times as short.

    Raises:
        InputError: a setting out of its range.

    Reference: ν as in S. De, A. Yadav, D. Jacobs, T. Goldstein, "Automated Inference with Adaptive Batches" (AISTATS
    2017; arXiv 1610.05792), Algorithm 3; the noise as in S. McCandlish, J. Kaplan, D. Amodei, "An Empirical Model of
    Large-Batch Training" (arXiv 1812.06162, 2018), section 2. Ours are a = 2, the limit to growth and that ν is
    measured now and then only.
    """

    initial: float = 0.01
    boldness: float = 2.0
    every: int = 10
    growth: float = 2.0

    name: ClassVar[str] = "curvature"
    needs: ClassVar[Needs] = Needs.NOISE
    searches: ClassVar[bool] = True
    averages: ClassVar[bool] = False
    guards: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        require_number("CurvatureStep.initial", self.initial, above=0)
        require_number("CurvatureStep.boldness", self.boldness, above=0)
        require_whole("CurvatureStep.every", self.every, least=1)
        require_number("CurvatureStep.growth", self.growth, above=1)

    def start(self, plan: Plan) -> tuple[Decision, CurvatureState]:
        """Begin at the first step size."""
        first = float(self.initial)
        reason = f"start at {first:g} until curvature and noise are measured"
        return Decision(lr=first, reason=reason), CurvatureState(first, math.nan, self.every, first)

    def decide(self, now: StepContext, state: CurvatureState) -> Search:
        """Measure the curvature where it is due, and step by it."""
        curvature, age, most = state.curvature, state.age_steps + 1, state.most
        sloping = math.isfinite(now.loss) and LEAST_GRADIENT_NORM2 < now.gradient_norm2 < math.inf
        if age > self.every and sloping:
            outcome = yield Trial(state.step, gradient=True)
            if 0 < outcome.curvature < math.inf:
                curvature, age = outcome.curvature, 1
                most = state.step * (self.growth if outcome.loss <= now.loss else 1 / self.growth)
        scale = now.known_noise_scale
        if not (curvature > 0 and 0 <= scale < math.inf):
            kept = CurvatureState(state.step, curvature, age, most)
            return Decision(lr=state.step, reason="keep: curvature or noise not known"), kept
        step = min(most, self.boldness / curvature / (1 + scale / now.batch_size))
        reason = f"curvature {curvature:.3g}, noise scale {scale:.0f} against {now.batch_size} samples: step {step:.3g}"
        evidence = {"curvature": curvature, "noise_scale": scale}
        return Decision(lr=step, reason=reason, evidence=evidence), CurvatureState(step, curvature, age, most)
