"""The batch size from the length of the run: enough steps first, then the least time."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from ...citation import Citation
from ...decision import Decision, Needs, Plan, StepContext
from ...measurements import StepTime
from ...ranges import require_number, require_whole
from .sweet_spot import SETTLING, UNTIMED

SMALLEST_SENSIBLE = 8
BEYOND_TIMED = 2.0  # caches and memory bend the line: no size is chosen further beyond those that were timed
HELD = Decision(code="held", reason="hold: the batch size is near the one that suits the run")


@dataclass(frozen=True, slots=True)
class HorizonState:
    """The batch size decided, the step before which it holds, and whether it has left the first guess."""

    batch_size: int
    settled_until_step: int = 0
    timed: bool = False


@dataclass(frozen=True, slots=True)
class Horizon:
    """Leave the run enough steps; where it has them to spare, take the sweet spot of noise and speed.

        B = min(B_steps, max(n½, sqrt(B_noise · n½))),    B_steps = E·N/S,  or max(n½/2, (T/S - t0)/t1) for T seconds

    A short run needs its steps more than fast steps: with fewer than about a thousand, all schedules end higher; but
    where seconds are short, steps of less than n½/2 samples are hardly more. With
    steps to spare, the sweet spot takes the least time; until the noise is known, n½ takes its place. The two meet
    where B_steps is the sweet spot.

    | symbol | argument | meaning |
    |---|---|---|
    | S | steps | steps that a run needs |
    | E·N, T | | samples and seconds of the whole run; the smaller B_steps counts |
    | n½, t0, t1 | step_time | half-performance batch t0/t1 of the step time t0 + t1·B |
    | B_noise | noise | noise scale tr Σ/‖g‖² in samples |

    B is at least `min_size`, at most `max_fraction` of the data and twice the largest size timed. It changes only where
    it would by more than `change`, then holds for `dwell_steps` steps. Without a horizon B_steps has no limit.

    Args:
        steps: S.
        initial: first batch until the time of a step is known, where B_steps is larger.
        min_size: smallest batch size.
        max_fraction: largest batch as a fraction of the training set, but 8 samples.
        change: factor by which B must differ before the size changes.
        dwell_steps: steps for which a new size holds.

    Raises:
        InputError: a setting out of its range.

    A rule of this project (docs/default.md); the sweet spot is that of `SweetSpot`.
    """

    steps: int = 1000
    initial: int = 64
    min_size: int = 16
    max_fraction: float = 0.125
    change: float = 1.25
    dwell_steps: int = 100

    name: ClassVar[str] = "horizon"
    reference: ClassVar[Citation | None] = None
    needs: ClassVar[Needs] = Needs.NOISE_AND_TIME
    enlarges_current: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the settings."""
        for name in ("steps", "initial", "min_size", "dwell_steps"):
            require_whole(f"Horizon.{name}", getattr(self, name), least=1)
        require_number("Horizon.max_fraction", self.max_fraction, above=0, most=1)
        require_number("Horizon.change", self.change, least=1)

    def start(self, plan: Plan) -> tuple[Decision, HorizonState]:
        """Decide the first batch."""
        most = math.inf if plan.total_samples is None else plan.total_samples / self.steps
        size = self._within(min(most, plan.initial_batch_size or self.initial), plan.train_samples)
        reason = f"start with {size} samples until the time of a step is known"
        if most <= size:
            reason = f"{size} samples leave {plan.total_samples // size:,} steps" if plan.total_samples else reason
        return Decision(size, code="initial", reason=reason), HorizonState(size)

    def decide(self, now: StepContext, state: HorizonState) -> tuple[Decision, HorizonState]:
        """Change to the size that suits the run, or hold."""
        if now.step < state.settled_until_step:
            return SETTLING, state
        if now.step_time is None:
            return UNTIMED, state
        b, half = state.batch_size, now.step_time.half_performance
        noise = now.known_noise_scale
        spot = math.sqrt(noise * half) if noise > 0 else half
        if now.noise is not None and now.noise.high == math.inf:
            spot = max(spot, b)  # the noise is at least so much
        most = self._leaving_steps(now, now.step_time)
        wanted = min(most, max(half, spot), BEYOND_TIMED * max(now.step_time.largest, b))
        size = self._within(wanted, now.train_samples)
        change = self.change if state.timed else 1.0
        if b <= size * change and size <= b * change:
            return HELD, replace(state, timed=True)
        evidence = {"half_performance": half, "sweet_spot": spot}
        reason = f"half-performance batch {half:.0f}"
        if noise > 0:
            evidence["noise_scale"] = noise
            reason += f", noise scale {noise:.0f}: sweet spot {spot:.0f}"
        if most < math.inf:
            evidence["leaves_steps"] = most
            reason += f"; {self.steps:,} steps in this run ask for at most {most:.0f}"
        reason += f"; taken: {size}"
        decision = Decision(size, code="horizon", reason=reason, evidence=evidence)
        return decision, HorizonState(size, now.step + int(self.dwell_steps), timed=True)

    def _leaving_steps(self, now: StepContext, time: StepTime) -> float:
        """The largest batch that leaves the run its steps."""
        most = math.inf
        if now.total_samples is not None:
            most = now.total_samples / self.steps
        if now.total_seconds is not None:
            left = (now.total_seconds / self.steps - time.fixed_s) / time.per_sample_s
            most = min(most, max(left, time.half_performance / 2))
        return most

    def _within(self, size: float, train_samples: int) -> int:
        most = max(SMALLEST_SENSIBLE, int(self.max_fraction * train_samples))
        return min(round(max(size, self.min_size)), most, train_samples)
