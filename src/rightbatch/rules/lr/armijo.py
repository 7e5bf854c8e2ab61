"""Armijo's rule: the largest carried step under which the batch's own loss falls enough."""

from dataclasses import dataclass
from typing import ClassVar, get_args

from ...decision import Decision, Search, StepContext
from ...ranges import require_choice, require_number
from .backtracking import Backtracking, CarriedStep, Reset


@dataclass(frozen=True, slots=True)
class Armijo(Backtracking):
    """Backtrack from the carried step, doubled where the batch has just been enlarged, until the loss falls enough.

    The step that passes is carried to the next iteration, so that it only falls, except that an iteration which
    enlarged its batch starts from `growth_on_enlarge` times the carried one: its gradient is worth a longer step. With
    a batch that never grows use `reset="gradual"`, or one noisy batch shortens every step after it.

    If all trials fail, the loss does not follow the gradient (random numbers, batch statistics or a penalty that only
    one of them sees): the shortest step tried is taken, which moves next to nothing, and the step carried on is
    shortened once. Where loss or gradient are not finite, or ‖g_B‖ is below 1e-8, nothing is searched and the carried
    step kept.

    Args:
        initial: the first step size tried in a run; also that of every search with reset="always".
        c: share of the decrease promised by the slope that must be had.
        factor: shortening per failed trial.
        most_trials: after so many failures the search gives up.
        rounding: relative rounding error granted to a loss, see `Backtracking`.
        growth_on_enlarge: lengthening where the current batch was enlarged.
        reset: "never" (De et al.), "gradual" (times 2^(b/N) before each search, so at most doubled in a pass over the
            data) or "always" (from `initial`).

    Raises:
        InputError: a setting out of its range.

    Reference: S. De, A. Yadav, D. Jacobs, T. Goldstein, "Automated Inference with Adaptive Batches" (AISTATS 2017;
    arXiv 1610.05792), Algorithm 2, for the carried step, c and the doubling; S. Vaswani et al., "Painless Stochastic
    Gradient" (NeurIPS 2019) for the resets and the skipped search. Ours are the first step, the allowance for rounding
    and what happens when all trials fail.
    """

    growth_on_enlarge: float = 2.0
    reset: Reset = "never"

    name: ClassVar[str] = "armijo"

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        Backtracking.__post_init__(self)
        require_number("Armijo.growth_on_enlarge", self.growth_on_enlarge, least=1)
        require_choice("Armijo.reset", self.reset, get_args(Reset))

    def decide(self, now: StepContext, state: CarriedStep) -> Search:
        """Search along the current gradient."""
        if not self.searchable(now):
            return Decision(lr=state.step, reason="keep: no slope to search along"), state
        step = self.first_tried(now, state.step, self.reset)
        if now.grew:
            step *= self.growth_on_enlarge
        found = yield from self.search(now, step)
        if found is None:
            shortest = step * self.factor ** (self.most_trials - 1)
            reason = f"none of {self.most_trials} steps from {step:.3g} to {shortest:.3g} lowered the batch's loss"
            return Decision(lr=shortest, reason=reason), CarriedStep(state.step * self.factor)
        reason = "the first step tried lowers the loss enough"
        if found.trials > 1:
            reason = f"step shortened from {step:.3g} to {found.step:.3g}, where the loss falls enough"
        return Decision(lr=found.step, reason=reason), CarriedStep(found.step)
