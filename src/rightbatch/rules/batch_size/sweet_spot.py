"""The sweet spot: the batch size that takes the least time."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ...citation import Citation
from ...decision import Decision, Needs, Plan, StepContext
from ...measurements import NoiseEstimate
from ...ranges import require_number, require_whole
from ..bounds import require_sizes
from ..papers import NOISE_SCALE

SMALLEST_SENSIBLE = 8
BEYOND_TIMED = 2.0  # caches and memory bend the line: no size is chosen further beyond those that were timed
SETTLING = Decision(code="settling", reason="hold: the batch size has just changed")
UNTIMED = Decision(code="not-timed", reason="hold: too few batch sizes have been timed")
UNMEASURED = Decision(code="not-measured", reason="hold: the gradient noise is not known yet")
SETTLED = Decision(code="held", reason="hold: the batch size is near the sweet spot")
LIMITED = Decision(code="at-limit", reason="hold: the batch size is at its limit")


@dataclass(frozen=True, slots=True)
class SweetSpotState:
    """The batch size decided, the step before which it holds, and whether it has left the first guess."""

    batch_size: int
    settled_until_step: int = 0
    moved: bool = False


@dataclass(frozen=True, slots=True)
class SweetSpot:
    """Take B* = sqrt(B_noise · n½), the geometric mean of two measured numbers.

    Reaching a target takes about S·(1 + B_noise/B) steps and a step t0 + t1·B seconds, together proportional to
    (1 + B_noise/B)·(n½ + B), smallest at B*.

    | symbol | argument | meaning |
    |---|---|---|
    | B_noise | noise.noise_scale | noise scale tr Σ/‖g‖² in samples |
    | n½ | step_time.half_performance | t0/t1: the batch at which half of the hardware's peak speed is reached |

    B* is limited to between floor·n½ and ceiling·n½, where a wrong noise estimate costs little, then, taking
    precedence, to between `min_size` and `max_size` samples and to `max_fraction` of the data; and to twice the largest
    size timed, beyond which the line is not known. If the number of epochs is known, the batch size leaves at least
    `least_steps` steps. The size changes only when B* leaves (b/change, b·change), then holds for `dwell_steps` steps,
    and at most doubles, except when it leaves the first guess.

    Thin evidence: without a step time the size holds. Without a noise estimate it becomes floor·n½ if floor >= 1, which
    claims a batch worth its time whatever the noise; otherwise it holds. While the signal is not resolved from zero,
    the noise scale is only known to be at least `noise.low`, which may enlarge the batch but never shrinks it.

    Args:
        initial: size of the first batch, a guess.
        min_size: smallest batch size; never below 8 unless the data or `max_size` are.
        max_size: largest batch; None leaves that to max_fraction.
        floor: smallest batch in n½.
        ceiling: largest batch in n½.
        max_fraction: largest batch as a fraction of the training set.
        least_steps: smallest number of steps of a run whose epochs are known.
        change: factor by which B* must differ before the size changes.
        dwell_steps: steps for which a new size holds.

    Raises:
        InputError: a setting out of its range, or min_size above max_size, or floor above ceiling.

    Reference: the step count of McCandlish, Kaplan and Amodei 2018, section 2, and the step time of R. W. Hockney.
    Differs: their product and its minimum, the limits and the treatment of thin evidence are ours.
    """

    initial: int = 32
    min_size: int = 1
    max_size: int | None = None
    floor: float = 0.25
    ceiling: float = 4.0
    max_fraction: float = 0.25
    least_steps: int = 200
    change: float = 1.25
    dwell_steps: int = 8

    name: ClassVar[str] = "sweet-spot"
    reference: ClassVar[Citation | None] = NOISE_SCALE.at("section 2")
    needs: ClassVar[Needs] = Needs.NOISE_AND_TIME
    enlarges_current: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the settings."""
        require_sizes("SweetSpot", self.initial, self.max_size, self.min_size)
        require_number("SweetSpot.floor", self.floor, above=0)
        require_number("SweetSpot.ceiling", self.ceiling, least=self.floor)
        require_number("SweetSpot.max_fraction", self.max_fraction, above=0, most=1)
        require_whole("SweetSpot.least_steps", self.least_steps, least=1)
        require_number("SweetSpot.change", self.change, least=1)
        require_whole("SweetSpot.dwell_steps", self.dwell_steps, least=1)

    def start(self, plan: Plan) -> tuple[Decision, SweetSpotState]:
        """Decide the first batch."""
        batch_size = self._within(int(self.initial), plan.train_samples, plan.total_samples)
        reason = f"start with {batch_size} samples until noise and time are measured"
        return Decision(batch_size, code="initial", reason=reason), SweetSpotState(batch_size)

    def decide(self, now: StepContext, state: SweetSpotState) -> tuple[Decision, SweetSpotState]:
        """Change to the sweet spot, or hold."""
        if now.step < state.settled_until_step:
            return SETTLING, state
        if now.step_time is None:
            return UNTIMED, state
        b, half, noise = state.batch_size, now.step_time.half_performance, now.noise
        scale = now.known_noise_scale
        if scale > 0:
            spot = math.sqrt(scale * half)
            if noise is not None and noise.high == math.inf:
                spot = max(spot, b)
        elif self.floor >= 1:
            spot = self.floor * half
        else:
            return UNMEASURED, state
        target = min(max(spot, self.floor * half), self.ceiling * half, BEYOND_TIMED * now.step_time.largest)
        if b <= target * self.change and target <= b * self.change:
            return SETTLED, state
        if state.moved:
            target = min(target, 2.0 * b)
        batch_size = self._within(round(target), now.train_samples, now.total_samples)
        if batch_size == b:
            return LIMITED, state
        reason, evidence = _account(noise, scale, half, batch_size)
        decision = Decision(batch_size, code="sweet-spot", reason=reason, evidence=evidence)
        return decision, SweetSpotState(batch_size, now.step + int(self.dwell_steps), True)

    def _within(self, batch_size: int, train_samples: int, total_samples: int | None) -> int:
        least = max(SMALLEST_SENSIBLE, int(self.min_size))
        most = int(self.max_fraction * train_samples)
        if total_samples is not None:
            most = min(most, total_samples // int(self.least_steps))
        most = min(max(least, most), train_samples)
        if self.max_size is not None:
            most = min(most, int(self.max_size))
        return min(max(batch_size, least), most)


def _account(noise: NoiseEstimate | None, scale: float, half: float, batch_size: int) -> tuple[str, dict[str, float]]:
    if noise is None or not scale > 0:
        known = "no noise estimate yet" if noise is None else "noise scale not resolved yet"
        reason = f"half-performance batch {half:.0f} and {known}: {batch_size} samples are worth their time"
        return reason, {"half_performance": half}
    spot = math.sqrt(scale * half)
    evidence = {
        "noise_scale": noise.noise_scale,
        "noise_scale_low": noise.low,
        "noise_scale_high": noise.high,
        "half_performance": half,
        "sweet_spot": spot,
    }
    if noise.high < math.inf:
        reason = f"noise scale {scale:.0f} ({noise.low:.0f}-{noise.high:.0f})"
        reason += f" and half-performance batch {half:.0f} put the sweet spot at {spot:.0f}"
    else:
        reason = f"noise scale at least {scale:.0f} and half-performance batch {half:.0f}"
        reason += f" put the sweet spot at {spot:.0f} or more"
    return reason if abs(batch_size - spot) <= 0.5 else f"{reason}; within the limits, {batch_size}", evidence
