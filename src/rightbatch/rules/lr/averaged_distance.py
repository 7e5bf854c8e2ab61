"""Learning rate from the distance the *averaged* iterate has travelled, started by a range test: nothing to tune.

Distance-over-gradients rules set η_t = r_t/sqrt(Q_t), the distance travelled over the root of the summed squared
directions. Measured on the last iterate the distance is a random walk proportional to η itself and needs caution;
measured on the schedule-free average it grows only like η^0.6, so

    η_t = min(2 η_div, (κ · r_t/sqrt(Q_t))^p · η_r^(1-p)),    η_0 = η_r · 0.3

has a stable fixed point, and one κ serves convex problems and networks.

| symbol | argument | meaning |
|---|---|---|
| κ | `scale` | the one constant that matters; smaller is slower and generalises better |
| p | `power` | trust in the distance against the range test |
| η_r | | 2 η_80 of the range test |
| η_div | | where the range test diverged; a ceiling |
| r_t | `Movement.distance_rms` | rms(x_t - x_0), x the average, x_0 the best iterate of the range test |
| Q_t | `Movement.squared_directions` | Σ rms(d)², d the direction of the base optimizer |

Reference: Ivgi, Hinder and Carmon 2023, equation (1); Defazio et al., "The Road Less Scheduled" (2024), for the
averaging. Differs: the distance is the average's own and current, no running maximum; the prior comes from a range test
on the same recursion, and training continues from its best iterate.
"""

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar

from ...citation import Citation
from ...decision import Action, Decision, Needs, Plan, Search, StepContext
from ...errors import InputError
from ...ranges import require_number, require_whole
from ...rule_text import read_rule
from ..papers import DOG
from .range_test import RangeState, RangeTest

RAISE = Decision(code="range-test", reason="range test: raise the learning rate until the loss rises")


@dataclass(frozen=True, slots=True)
class AveragedDistanceState:
    """Where the rule stands: in the range test until `ceiling` is known."""

    test: RangeState
    step_size: float
    prior: float = math.nan
    ceiling: float = math.nan
    base_loss: float = math.nan
    average_loss: float = math.nan
    taken: int = 0


@dataclass(frozen=True, slots=True)
class AveragedDistance:
    """Run a range test, then average, with a rate from the distance the average has travelled.

    Args:
        scale: κ.
        power: p.
        initial: η_0 as a fraction of η_r.
        start_size: the tiny first rate of the range test, per rms parameter.
        snapshot_every: steps between two snapshots to roll back to.
        test: the range test, or its text.

    Raises:
        InputError: a setting out of its range.
    """

    scale: float = 2.2
    power: float = 0.85
    initial: float = 0.3
    start_size: float = 1e-4
    snapshot_every: int = 100
    test: RangeTest = field(default_factory=RangeTest)

    name: ClassVar[str] = "averaged-distance"
    reference: ClassVar[Citation | None] = DOG.at("equation (1)")
    needs: ClassVar[Needs] = Needs.NOTHING
    searches: ClassVar[bool] = False
    averages: ClassVar[bool] = True
    guards: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the settings."""
        for name in ("scale", "power", "initial", "start_size"):
            require_number(f"AveragedDistance.{name}", getattr(self, name), above=0)
        require_whole("AveragedDistance.snapshot_every", self.snapshot_every, least=1)
        if isinstance(self.test, str):
            object.__setattr__(self, "test", read_rule(self.test, {RangeTest.name: RangeTest}, "AveragedDistance.test"))
        if not isinstance(self.test, RangeTest):
            raise InputError(
                f"AveragedDistance.test is {self.test!r}: give a RangeTest or its text, 'range-test(...)'."
            )

    def start(self, plan: Plan) -> tuple[Decision, AveragedDistanceState]:
        """Start the range test far below any useful rate: one that moves each weight by 0.01 % of the weights' rms."""
        count = max(1, plan.parameter_count)
        tiny = self.start_size * (0.01 + plan.parameter_norm) / math.sqrt(count)
        reason = f"range test: start at a tiny learning rate, {tiny:.2g}, and raise it until the loss rises"
        return Decision(lr=tiny, code="initial", reason=reason), AveragedDistanceState(self.test.start(tiny), tiny)

    def decide(self, now: StepContext, state: AveragedDistanceState) -> Search:
        """Run the range test first, then follow the averaged distance, without trial steps."""
        yield from ()
        return self._test(now, state) if math.isnan(state.ceiling) else self._average(now, state)

    def _test(self, now: StepContext, state: AveragedDistanceState) -> tuple[Decision, AveragedDistanceState]:
        test = self.test.observe(state.test, now.loss)
        if not test.finished:
            action: Action | None = "snapshot" if test.improved or test.seen == 1 else None
            return replace(RAISE, lr=test.step_size, action=action), replace(state, test=test, step_size=test.step_size)
        ceiling, good = self.test.diverged_at(test), self.test.progress_at(test)
        after = replace(
            state,
            test=replace(test, trace=()),
            step_size=self.initial * 2 * good,
            prior=2 * good,
            ceiling=2 * ceiling,
            base_loss=self.test.base(test),
            average_loss=test.lowest if math.isfinite(test.lowest) else math.nan,
        )
        reason = (
            f"range test finished after {test.seen} steps: the loss rose at {ceiling:.2g}, 80 % of its drop came by "
            f"{good:.2g}; continue from the best iterate at {after.step_size:.2g}"
        )
        evidence = {
            "diverged_at": ceiling,
            "progress_at": good,
            "base_loss": after.base_loss,
            "lowest_loss": test.lowest,
        }
        decision = Decision(
            lr=after.step_size, code="range-test-finished", reason=reason, evidence=evidence, action="rollback"
        )
        return decision, after

    def _average(self, now: StepContext, state: AveragedDistanceState) -> tuple[Decision, AveragedDistanceState]:
        before = now.loss if math.isnan(state.average_loss) else state.average_loss
        average_loss = 0.9 * before + 0.1 * now.loss
        if not math.isfinite(now.loss) or average_loss > 2 * abs(state.base_loss) + 0.1:
            prior = 0.5 * state.prior
            after = replace(
                state,
                prior=prior,
                ceiling=0.5 * state.ceiling,
                step_size=self.initial * prior,
                average_loss=math.nan,
                taken=0,
            )
            reason = f"the loss diverged ({now.loss:.3g}): return to the last snapshot, with half the learning rate"
            return Decision(lr=after.step_size, code="diverged", reason=reason, action="rollback"), after
        step_size, reason = state.step_size, ""
        movement = now.movement
        if movement is not None and movement.distance_rms > 0 and movement.squared_directions > 0:
            distance_step = self.scale * movement.distance_rms / math.sqrt(movement.squared_directions)
            step_size = min(state.ceiling, distance_step**self.power * state.prior ** (1 - self.power))
            reason = f"the average is {movement.distance_rms:.2g} (rms) from its start: {step_size:.2g}"
        action: Action | None = "snapshot" if state.taken % self.snapshot_every == self.snapshot_every - 1 else None
        after = replace(state, step_size=step_size, average_loss=average_loss, taken=state.taken + 1)
        return Decision(lr=step_size, code="distance", reason=reason, action=action), after
