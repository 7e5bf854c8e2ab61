"""Armijo's rule: the largest learning rate at which the batch's own loss falls enough, by backtracking."""

from dataclasses import dataclass
from typing import ClassVar, get_args

from ...citation import Citation
from ...decision import Decision, Search, StepContext
from ...ranges import require_choice, require_number
from ..papers import BIG_BATCH
from .backtracking import Backtracking, CarriedStep, Reset


@dataclass(frozen=True, slots=True)
class Armijo(Backtracking):
    """Backtrack from the last step, doubled if the batch was just enlarged, until the loss falls enough.

    The step that passes starts the next search, so that it only falls, except that a step whose batch was enlarged
    starts from `growth_on_enlarge` times the last one: its gradient allows a longer step. With a batch size that never
    grows use `reset="gradual"`, or one noisy batch shortens all later steps.

    If all trials fail, the loss does not follow the gradient (random numbers, batch statistics or a penalty that only
    one of them contains): the rule takes the shortest step tried and shortens the next start once.
    If loss or gradient are not finite, or ‖g_B‖ is below 1e-8, the rule does not search and holds the last step.

    Args:
        initial: first step tried in a run; with reset="always", in every search.
        c: required fraction of the decrease that the slope predicts.
        factor: shortening after each failed trial.
        most_trials: failures after which the search ends.
        rounding: relative rounding error allowed in a loss, see `Backtracking`.
        growth_on_enlarge: lengthening if the current batch was enlarged.
        reset: "never" (De et al.), "gradual" (times 2^(b/N) before each search, so at most doubled in a pass over the
            data) or "always" (from `initial`).

    Raises:
        InputError: a setting out of its range.

    Reference: De et al. 2017, Algorithm 2, for the start from the last step, c and the doubling; Vaswani et al.,
    "Painless Stochastic Gradient" (NeurIPS 2019), for the resets and the skipped search. Differs: ours are the first
    step, the allowance for rounding and what happens when all trials fail.
    """

    growth_on_enlarge: float = 2.0
    reset: Reset = "never"

    name: ClassVar[str] = "armijo"
    reference: ClassVar[Citation | None] = BIG_BATCH.at("Algorithm 2")

    def __post_init__(self) -> None:
        """Check the settings."""
        Backtracking.__post_init__(self)
        require_number("Armijo.growth_on_enlarge", self.growth_on_enlarge, least=1)
        require_choice("Armijo.reset", self.reset, get_args(Reset))

    def decide(self, now: StepContext, state: CarriedStep) -> Search:
        """Search along the current gradient."""
        if not self.searchable(now):
            return self.no_slope(state), state
        step = self.first_tried(now, state.step, self.reset)
        if now.grew:
            step *= self.growth_on_enlarge
        found = yield from self.search(now, step)
        if found is None:
            return self.failed(state, step)
        code, reason = "accepted", "the first step tried lowers the loss enough"
        if found.trials > 1:
            code, reason = "backtracked", f"the loss falls enough at {found.step:.3g}, shortened from {step:.3g}"
        return Decision(lr=found.step, code=code, reason=reason), CarriedStep(found.step)
