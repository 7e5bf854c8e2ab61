"""The sweet spot: the batch size at which the least time is needed."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ...decision import Decision, Needs, Plan, Situation
from ...errors import InputError
from ...measurements import NoiseEstimate
from ...ranges import require_number, require_whole

LEAST_SENSIBLE = 8
BEYOND_TIMED = 2.0  # caches and memory bend the line: no size is chosen further from those really timed
DWELLING = Decision(reason="hold: the batch size has just changed")
UNTIMED = Decision(reason="hold: too few batch sizes have been timed")
UNMEASURED = Decision(reason="hold: the gradient noise is not known yet")
SETTLED = Decision(reason="hold: the batch size is near the sweet spot")
LIMITED = Decision(reason="hold: the batch size is at its limit")


@dataclass(frozen=True, slots=True)
class SweetSpotState:
    """The batch size decided, the step before which it stays, and whether it has left the first guess."""

    examples: int
    settled_until_step: int = 0
    moved: bool = False


@dataclass(frozen=True, slots=True)
class SweetSpot:
    """B* = sqrt(B_noise · n½), the geometric mean of two measured numbers.

    Reaching a target takes about S·(1 + B_noise/B) steps and a step t0 + t1·B seconds, together proportional to
    (1 + B_noise/B)·(n½ + B), least at B*.

    | symbol | argument | meaning |
    |---|---|---|
    | B_noise | noise.noise_scale | noise scale tr Σ/‖g‖² in examples |
    | n½ | step_time.half_performance | t0/t1: the batch at which half of the hardware's peak speed is reached |

    B* is held within floor·n½ and ceiling·n½, the range in which a wrong noise estimate costs little, and then, with
    precedence, within `least` and `most` examples and `most_share` of the data; nor does it exceed twice the largest
    size timed, the line being known no further. Where a run is told its epochs they bound the steps, which the formula
    does not know: the batch leaves it `least_steps`. The size moves only when B* leaves
    (b/change, b·change), then stays `dwell_steps` steps, and at most doubles, except when it leaves the first guess.

    Thin evidence: without a step time it holds. Without a noise estimate floor·n½ is taken where floor >= 1, which
    claims a batch worth its time whatever the noise; otherwise it holds. While the signal is not told from zero the
    noise scale is only known to be at least `noise.low`, which may enlarge the batch but never shrinks it.

    Args:
        first: the guess for the first batch.
        least: smallest batch; 8 is the least in any case unless the data or `most` are smaller.
        most: largest batch; None leaves that to most_share.
        floor: smallest batch in n½.
        ceiling: largest batch in n½.
        most_share: largest batch as a share of the training set.
        least_steps: that a run of so many epochs would take at the largest batch.
        change: factor by which B* must differ before the size moves.
        dwell_steps: steps a new size stays.

    Raises:
        InputError: a setting out of its range, or least above most, or floor above ceiling.

    Reference: the step count is S. McCandlish, J. Kaplan, D. Amodei, "An Empirical Model of Large-Batch Training"
    (arXiv 1812.06162, 2018), section 2; the step time R. W. Hockney's. Their product and its minimum, the limits and
    the treatment of thin evidence are ours.
    """

    first: int = 32
    least: int = 1
    most: int | None = None
    floor: float = 0.25
    ceiling: float = 4.0
    most_share: float = 0.25
    least_steps: int = 200
    change: float = 1.25
    dwell_steps: int = 8

    name: ClassVar[str] = "sweet-spot"
    needs: ClassVar[Needs] = Needs.NOISE_AND_TIME
    enlarges_current: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        require_whole("SweetSpot.first", self.first, least=1)
        require_whole("SweetSpot.least", self.least, least=1)
        if self.most is not None:
            require_whole("SweetSpot.most", self.most, least=1)
            if self.most < self.least:
                raise InputError(f"SweetSpot.most is {self.most}, less than its least, {self.least}: exchange them.")
        require_number("SweetSpot.floor", self.floor, above=0)
        require_number("SweetSpot.ceiling", self.ceiling, least=self.floor)
        require_number("SweetSpot.most_share", self.most_share, above=0, most=1)
        require_whole("SweetSpot.least_steps", self.least_steps, least=1)
        require_number("SweetSpot.change", self.change, least=1)
        require_whole("SweetSpot.dwell_steps", self.dwell_steps, least=1)

    def start(self, plan: Plan) -> tuple[Decision, SweetSpotState]:
        """Decide the first batch."""
        examples = self._within(int(self.first), plan.train_samples, plan.total_samples)
        reason = f"start with {examples} examples until noise and time are measured"
        return Decision(examples=examples, reason=reason), SweetSpotState(examples)

    def decide(self, now: Situation, state: SweetSpotState) -> tuple[Decision, SweetSpotState]:
        """Move to the sweet spot or hold."""
        if now.step < state.settled_until_step:
            return DWELLING, state
        if now.step_time is None:
            return UNTIMED, state
        b, half, noise = state.examples, now.step_time.half_performance, now.noise
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
        examples = self._within(round(target), now.train_samples, now.total_samples)
        if examples == b:
            return LIMITED, state
        reason, evidence = _account(noise, scale, half, examples)
        decision = Decision(examples=examples, reason=reason, evidence=evidence)
        return decision, SweetSpotState(examples, now.step + int(self.dwell_steps), True)

    def _within(self, examples: int, train_samples: int, total_samples: int | None) -> int:
        least = max(LEAST_SENSIBLE, int(self.least))
        most = int(self.most_share * train_samples)
        if total_samples is not None:
            most = min(most, total_samples // int(self.least_steps))
        most = min(max(least, most), train_samples)
        if self.most is not None:
            most = min(most, int(self.most))
        return min(max(examples, least), most)


def _account(noise: NoiseEstimate | None, scale: float, half: float, examples: int) -> tuple[str, dict[str, float]]:
    if noise is None or not scale > 0:
        known = "no noise estimate yet" if noise is None else "a noise scale not yet told from zero"
        reason = f"half-performance batch {half:.0f} and {known}: {examples} examples are worth their time"
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
    return reason if abs(examples - spot) <= 0.5 else f"{reason}; within the limits, {examples}", evidence
