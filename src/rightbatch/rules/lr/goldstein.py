"""Goldstein's rule: a step under which the batch's own loss falls enough, but not by all that the slope promises."""

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar, get_args

from ...decision import Decision, Outcome, Search, StepContext, Trial
from ...errors import InputError
from ...ranges import require_choice, require_number
from .backtracking import Backtracking, CarriedStep, Reset


@dataclass(frozen=True, slots=True)
class Goldstein(Backtracking):
    """Shorten or lengthen the carried step until the loss falls by between c and 1 - c of what the slope promises.

        F - (1 - c)·α·‖g_B‖² <= F(x - α·g_B) <= F - c·α·‖g_B‖²

    | symbol | argument | meaning |
    |---|---|---|
    | α | step | the step tried |
    | c | c | share, below a half |
    | F, g_B | loss, gradient_norm2 | loss of the current batch and its mean gradient |

    A step on which the loss rises above the upper line is shortened, one on which it falls below the lower line is
    lengthened, and between one of each the geometric mean is tried: on a parabola of curvature ν the steps from 2c/ν
    to 2(1 - c)/ν pass. Unlike `Armijo`, the carried step so finds its own way up. Where the trials run out, the longest
    step that lowered the loss enough is taken; else, and where there is no slope, it goes as in `Armijo`.

    Args:
        initial: the first step size tried in a run; also that of every search with reset="always".
        c: above 0, below 0.5.
        factor: shortening per step that is too long.
        most_trials: after so many the search gives up.
        rounding: relative rounding error granted to a loss at the upper line, see `Backtracking`.
        growth: lengthening per step that is too short.
        most: longest step.
        reset: as in `Armijo`.

    Raises:
        InputError: a setting out of its range.

    Reference: A. A. Goldstein, "On Steepest Descent" (SIAM J. Control, 1965); on batches S. Vaswani et al., "Painless
    Stochastic Gradient" (NeurIPS 2019; arXiv 1905.09997), whose defaults are factor 0.9 and most 10. Differs: once a
    step is known to be too short and one too long, the next lies between them, so that the search ends.
    """

    growth: float = 2.0
    most: float = 10.0
    reset: Reset = "never"

    name: ClassVar[str] = "goldstein"

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        Backtracking.__post_init__(self)
        require_number("Goldstein.growth", self.growth, above=1)
        require_number("Goldstein.most", self.most, least=self.initial)
        require_choice("Goldstein.reset", self.reset, get_args(Reset))
        if not self.c < 0.5:
            raise InputError(f"Goldstein.c is {self.c!r}: give a number below 0.5, or no step can pass.")

    def decide(self, now: StepContext, state: CarriedStep) -> Search:
        """Search along the current gradient."""
        if not self.searchable(now):
            return Decision(lr=state.step, reason="keep: no slope to search along"), state
        first = min(self.most, self.first_tried(now, state.step, self.reset))
        found, last, trials = yield from self._between(now, first)
        if found is None:
            reason = f"none of {trials} steps from {first:.3g} to {last:.3g} lowered the batch's loss"
            return Decision(lr=last, reason=reason), CarriedStep(state.step * self.factor)
        reason = f"the loss falls enough and not too little further at {found:.3g}, after {trials} trials"
        return Decision(lr=found, reason=reason), CarriedStep(found)

    def _between(self, now: StepContext, step: float) -> Generator[Trial, Outcome, tuple[float | None, float, int]]:
        """(the step that passes or the longest that falls enough, the last tried, how many were)."""
        granted = self.rounding * abs(now.loss)
        short, long = 0.0, math.inf
        for trials in range(1, self.most_trials + 1):
            tried = step
            outcome = yield Trial(tried)
            promised = tried * now.gradient_norm2
            if not outcome.loss <= now.loss + granted - self.c * promised:
                long = tried
            elif outcome.loss < now.loss - (1 - self.c) * promised and tried < self.most:
                short = tried
            else:
                return tried, tried, trials
            if short == 0:
                step = long * self.factor
            else:
                step = min(self.most, short * self.growth) if long == math.inf else math.sqrt(short * long)
        return short or None, tried, self.most_trials
