"""Goldstein's rule: a step at which the batch's own loss falls enough, but by less than the slope predicts."""

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar, get_args

from ...citation import Citation
from ...decision import Decision, Outcome, Search, StepContext, Trial
from ...errors import InputError
from ...ranges import require_choice, require_number
from .backtracking import Backtracking, CarriedStep, Reset


@dataclass(frozen=True, slots=True)
class Goldstein(Backtracking):
    """Shorten or lengthen the last step until the loss falls by between c and 1 - c of what the slope predicts.

        F - (1 - c)·α·‖g_B‖² <= F(x - α·g_B) <= F - c·α·‖g_B‖²

    | symbol | argument | meaning |
    |---|---|---|
    | α | step | the step tried |
    | c | c | fraction, below a half |
    | F, g_B | loss, gradient_norm2 | loss of the current batch and its mean gradient |

    A step above the upper line is shortened, one below the lower line is lengthened, and between one of each the rule
    tries the geometric mean: on a parabola of curvature ν the steps from 2c/ν to 2(1 - c)/ν pass. Unlike in `Armijo`,
    the step can grow again. If the trials run out, the rule takes the longest step that lowered the loss enough; if
    there is none, or no slope, it does as `Armijo`.

    Args:
        initial: first step tried in a run; with reset="always", in every search.
        c: above 0, below 0.5.
        factor: shortening after a step that is too long.
        most_trials: trials after which the search ends.
        rounding: relative rounding error allowed in a loss at the upper line, see `Backtracking`.
        growth: lengthening after a step that is too short.
        most: longest step.
        reset: as in `Armijo`.

    Raises:
        InputError: a setting out of its range.

    Reference: Goldstein 1965; on batches S. Vaswani et al., "Painless Stochastic Gradient" (NeurIPS 2019; arXiv
    1905.09997), whose defaults are factor 0.9 and most 10. Differs: once one step was too short and one too long, the
    next lies between them, so that the search ends.
    """

    growth: float = 2.0
    most: float = 10.0
    reset: Reset = "never"

    name: ClassVar[str] = "goldstein"
    reference: ClassVar[Citation | None] = Citation(
        ("A. A. Goldstein",), "On Steepest Descent", 1965, "SIAM Journal on Control 3"
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        Backtracking.__post_init__(self)
        require_number("Goldstein.growth", self.growth, above=1)
        require_number("Goldstein.most", self.most, least=self.initial)
        require_choice("Goldstein.reset", self.reset, get_args(Reset))
        if not self.c < 0.5:
            raise InputError(f"Goldstein.c is {self.c!r}: give a number below 0.5, as no step can pass otherwise.")

    def decide(self, now: StepContext, state: CarriedStep) -> Search:
        """Search along the current gradient."""
        if not self.searchable(now):
            return self.no_slope(state), state
        first = min(self.most, self.first_tried(now, state.step, self.reset))
        found, last, trials = yield from self._between(now, first)
        if found is None:
            return self.failed(state, first, last, trials)
        reason = f"the loss falls enough, and by less than the slope predicts, at {found:.3g}, after {trials} trials"
        return Decision(lr=found, code="accepted", reason=reason), CarriedStep(found)

    def _between(self, now: StepContext, step: float) -> Generator[Trial, Outcome, tuple[float | None, float, int]]:
        """(the step that passes or the longest at which the loss falls enough, the last tried, their number)."""
        allowed = self.rounding * abs(now.loss)
        short, long = 0.0, math.inf
        for trials in range(1, self.most_trials + 1):
            tried = step
            outcome = yield Trial(tried)
            promised = tried * now.gradient_norm2
            if not outcome.loss <= now.loss + allowed - self.c * promised:
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
