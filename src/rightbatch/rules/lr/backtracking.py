"""Backtracking on the current batch, what the line searches share."""

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from ...decision import Decision, Needs, Outcome, Plan, StepContext, Trial
from ...ranges import require_number, require_whole

Reset = Literal["never", "gradual", "always"]
PASS_GROWTH = 2.0  # of a step carried on by gradual resets, in a pass over the data
LEAST_GRADIENT_NORM2 = 1e-16
FLOAT32_ROUNDING = 2.0**-23


class AcceptedStep(NamedTuple):
    """The first step that passed, how many trials it took, and what the last one answered."""

    step: float
    trials: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class CarriedStep:
    """The step size that a line search carries on."""

    step: float


@dataclass(frozen=True, slots=True)
class Backtracking:
    """Shorten a step until the batch's own loss falls enough: F(x - α·g_B) <= F(x) - c·α·‖g_B‖².

    | symbol | argument | meaning |
    |---|---|---|
    | α | step | the step tried; `factor` times the last after each failure |
    | c | c | share of the decrease promised by the slope that must be had |
    | F, g_B | loss, gradient_norm2 | loss of the current batch and its mean gradient |

    Args:
        initial: the first step size tried in a run.
        c: in (0, 1).
        factor: in (0, 1).
        most_trials: after so many failures the search gives up.
        rounding: relative rounding error granted to a loss; 0 asks for the inequality to the letter. Near an optimum
            the decrease asked for falls below what a float32 loss can show, and without this the search would cut steps
            at random.

    Raises:
        InputError: a setting out of its range.
    """

    initial: float = 1.0
    c: float = 0.1
    factor: float = 0.5
    most_trials: int = 30
    rounding: float = FLOAT32_ROUNDING

    needs: ClassVar[Needs] = Needs.NOTHING
    searches: ClassVar[bool] = True
    averages: ClassVar[bool] = False
    guards: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        require_number("The first step size", self.initial, above=0)
        require_number("The sufficient decrease c", self.c, above=0, most=1)
        require_number("The backtracking factor", self.factor, above=0, most=0.99)
        require_whole("most_trials", self.most_trials, least=1)
        require_number("The rounding granted to a loss", self.rounding, least=0, most=0.01)

    def start(self, plan: Plan) -> tuple[Decision, CarriedStep]:
        """Begin at the first step size."""
        reason = f"search for the step size from {self.initial:g}"
        return Decision(lr=float(self.initial), reason=reason), CarriedStep(float(self.initial))

    def searchable(self, now: StepContext) -> bool:
        """Whether loss and gradient are finite and the gradient long enough (1e-8) for a slope."""
        return math.isfinite(now.loss) and LEAST_GRADIENT_NORM2 < now.gradient_norm2 < math.inf

    def first_tried(self, now: StepContext, step: float, reset: Reset) -> float:
        """Where a search begins that carries `step` on: there, at 2^(b/N) times as much, or at `initial`."""
        if reset == "always":
            return float(self.initial)
        return step * PASS_GROWTH ** (now.batch_size / now.train_samples) if reset == "gradual" else step

    def search(
        self, now: StepContext, step: float, gradient: bool = False
    ) -> Generator[Trial, Outcome, AcceptedStep | None]:
        """Try `step`, then shorter ones; with `gradient`, ask for the curvature too. None if every trial failed."""
        allowed = now.loss + self.rounding * abs(now.loss)
        for trials in range(1, self.most_trials + 1):
            outcome = yield Trial(step, gradient)
            if outcome.loss <= allowed - self.c * step * now.gradient_norm2:
                return AcceptedStep(step, trials, outcome)
            step *= self.factor
        return None
