"""Backtracking on the current batch, the base of the line searches."""

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from ...decision import Decision, Needs, Outcome, Plan, StepContext, Trial
from ...ranges import require_number, require_whole

Reset = Literal["never", "gradual", "always"]
PASS_GROWTH = 2.0  # of the first step tried, by gradual resets, in a pass over the data
LEAST_GRADIENT_NORM2 = 1e-16
FLOAT32_ROUNDING = 2.0**-23


class AcceptedStep(NamedTuple):
    """The first step that passed, how many trials it took, and the outcome of the last."""

    step: float
    trials: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class CarriedStep:
    """The step from which the next line search starts."""

    step: float


@dataclass(frozen=True, slots=True)
class Backtracking:
    """Shorten a step until the batch's own loss falls enough: F(x - α·g_B) <= F(x) - c·α·‖g_B‖².

    | symbol | argument | meaning |
    |---|---|---|
    | α | step | the step tried; `factor` times the last after each failure |
    | c | c | required fraction of the decrease that the slope predicts |
    | F, g_B | loss, gradient_norm2 | loss of the current batch and its mean gradient |

    Args:
        initial: first step tried in a run.
        c: in (0, 1).
        factor: in (0, 1).
        most_trials: failures after which the search ends.
        rounding: relative rounding error allowed in a loss; 0 demands the exact inequality. Near an optimum the
            required decrease falls below the resolution of a float32 loss, and without the allowance the search would
            cut steps at random.

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
        """Check the settings."""
        require_number("The first step", self.initial, above=0)
        require_number("The sufficient decrease c", self.c, above=0, most=1)
        require_number("The backtracking factor", self.factor, above=0, most=0.99)
        require_whole("most_trials", self.most_trials, least=1)
        require_number("The rounding allowed in a loss", self.rounding, least=0, most=0.01)

    def start(self, plan: Plan) -> tuple[Decision, CarriedStep]:
        """Start at the first step."""
        reason = f"search for the learning rate from {self.initial:g}"
        return Decision(lr=float(self.initial), code="initial", reason=reason), CarriedStep(float(self.initial))

    def searchable(self, now: StepContext) -> bool:
        """Whether loss and gradient are finite and the gradient is longer than 1e-8."""
        return math.isfinite(now.loss) and LEAST_GRADIENT_NORM2 < now.gradient_norm2 < math.inf

    def first_tried(self, now: StepContext, step: float, reset: Reset) -> float:
        """The first step of a search after `step`: the same, 2^(b/N) times as much, or `initial`."""
        if reset == "always":
            return float(self.initial)
        return step * PASS_GROWTH ** (now.batch_size / now.train_samples) if reset == "gradual" else step

    def no_slope(self, state: CarriedStep) -> Decision:
        """The decision where a search is not possible."""
        return Decision(lr=state.step, code="no-slope", reason="hold: no slope to search along")

    def failed(
        self, state: CarriedStep, first: float, last: float | None = None, trials: int | None = None
    ) -> tuple[Decision, CarriedStep]:
        """The decision after a search from `first` to `last` without success: the shortest step."""
        trials = trials or self.most_trials
        last = first * self.factor ** (trials - 1) if last is None else last
        reason = f"none of {trials} steps from {first:.3g} to {last:.3g} lowered the batch's loss enough"
        return Decision(lr=last, code="search-failed", reason=reason), CarriedStep(state.step * self.factor)

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
