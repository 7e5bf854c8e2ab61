"""Orr's annealing by growth: the batch size grows as fast as the error of least mean squares falls."""

from dataclasses import dataclass
from typing import ClassVar

from ...citation import Citation
from ...decision import Decision, Needs, Plan, StepContext
from ...errors import InputError
from ...ranges import require_number, require_whole
from ..stages import grown


@dataclass(frozen=True, slots=True)
class OrrState:
    """The size decided, and the factor by which it grows at every step."""

    batch_size: int
    growth: float


@dataclass(frozen=True, slots=True)
class Orr:
    """Grow the batch exponentially in the steps t, b_t = b0/(1 - μR)^t, the best schedule for least mean squares.

    | symbol | argument | meaning |
    |---|---|---|
    | b0 | initial | first batch |
    | μ | lr | learning rate |
    | R | curvature | curvature of the loss, E x² of one input; of several the smallest that matters |
    | τ | samples | samples consumed |

    With y = ω*x + ε, Var ε = σ², v = ω - ω*, S = E x⁴ and batches of b,

        E v²_{t+1} = ((1 - μR)² + μ²(S - R²)/b) · E v²_t + μ²Rσ²/b

    so that a fixed batch ends at a floor proportional to 1/b. Let the late error fall by ρ at each step and b grow by
    1/ρ: then τ·E v² tends to μ²Rσ²·ρ/((ρ - (1 - μR)²)(1 - ρ)), smallest at ρ = 1 - μR, where it is σ²/R, the minimum
    for any unbiased estimate from τ samples. Growth beyond 1/(1 - μR)² wastes samples, as no error falls faster. The
    derivation holds for late errors, v² small against σ²/R.

    Args:
        initial: b0.
        curvature: R, in the units of one over the learning rate.
        lr: μ; None takes the optimizer's own at the start.

    Raises:
        InputError: a setting out of its range; when a run starts, μR not between 0 and 1.

    Reference: Orr 1997, which shows that the best schedule is exponential and as good as annealing. Differs: the growth
    per step is derived here.
    """

    initial: int = 1
    curvature: float = 1.0
    lr: float | None = None

    name: ClassVar[str] = "orr"
    reference: ClassVar[Citation | None] = Citation(
        ("G. B. Orr",), "Removing Noise in On-Line Search using Adaptive Batch Sizes", 1997, "NIPS 9, pp. 232-238"
    )
    needs: ClassVar[Needs] = Needs.NOTHING
    enlarges_current: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the settings."""
        require_whole("Orr.initial", self.initial, least=1)
        require_number("Orr.curvature", self.curvature, above=0)
        if self.lr is not None:
            require_number("Orr.lr", self.lr, above=0)

    def start(self, plan: Plan) -> tuple[Decision, OrrState]:
        """Decide the first batch and the growth."""
        rate = plan.lr if self.lr is None else self.lr
        fall = rate * self.curvature
        if not 0 < fall < 1:
            raise InputError(
                f"Orr's growth needs a learning rate times curvature between 0 and 1, but {rate:g} · "
                f"{self.curvature:g} is {fall:g}: give the curvature of your loss, or another learning rate."
            )
        batch_size = min(int(self.initial), plan.train_samples)
        reason = f"start with {batch_size} samples and grow by {1 / (1 - fall):.4g} at every step"
        return Decision(batch_size, code="initial", reason=reason), OrrState(batch_size, 1 / (1 - fall))

    def decide(self, now: StepContext, state: OrrState) -> tuple[Decision, OrrState]:
        """Grow with the steps."""
        batch_size = grown(self.initial, state.growth, now.step + 1, now.train_samples)
        if batch_size == state.batch_size:
            return Decision(code="held", reason=f"hold: the growth has not passed {batch_size} samples"), state
        reason = f"{now.step + 1} steps at a growth of {state.growth:.4g} make {batch_size} samples"
        return Decision(batch_size, code="schedule", reason=reason), OrrState(batch_size, state.growth)
