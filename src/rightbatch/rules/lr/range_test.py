"""The learning-rate range test: raise the rate after every step until the loss rises, then read off a good one.

Leslie Smith's test raises the learning rate geometrically while training and watches the loss. Run on the recursion
that training uses afterwards, it gives two numbers: where training diverges and where most of the progress was made.

| symbol | field or argument | meaning |
|---|---|---|
| l0 | `base` | mean loss of the reference steps |
| σ | `spread` | noise of one batch's loss |
| η_div | `diverged_at` | learning rate at which the loss rose |
| η_80 | `progress_at` | first learning rate at which 80 % of the drop was made |

Reference: Smith 2017, section 3.3. Differs: the noise of the loss is estimated from the run and only rises above it end
the test; the rate grows faster until the first progress, which on problems that start at zero weights halves the steps
of the test; the suggestion is at 80 % of the drop, which scatters over seeds a third as much as the minimum or the
divergence.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from ...citation import Citation
from ...errors import InputError
from ..papers import CYCLICAL

MOST_BROKEN = 3


@dataclass(frozen=True, slots=True)
class RangeState:
    """The state of a range test; `trace` holds pairs (learning rate, loss after a step at that rate)."""

    step_size: float
    trace: tuple[tuple[float, float], ...] = ()
    seen: int = 0
    total: float = 0.0
    lowest: float = math.inf
    previous: float = math.nan
    squared_changes: float = 0.0
    squared_losses: float = 0.0
    broken: int = 0
    turned: bool = False
    improved: bool = False
    finished: bool = False


@dataclass(frozen=True, slots=True)
class RangeTest:
    """Raise the learning rate while training until the loss rises, then take the best one.

    Args:
        reference_steps: steps at the first, tiny rate, which measure the loss and its noise.
        coarse_factor: growth of the rate at every step after those, until the loss has visibly fallen.
        factor: growth from then on.
        most_steps: steps after which the test ends.
    """

    reference_steps: int = 5
    coarse_factor: float = 2.0
    factor: float = 1.4
    most_steps: int = 200

    name: ClassVar[str] = "range-test"
    reference: ClassVar[Citation | None] = CYCLICAL.at("section 3.3")

    def __post_init__(self) -> None:
        growths = (self.coarse_factor, self.factor)
        if self.reference_steps < 2 or min(growths) <= 1 or self.most_steps <= self.reference_steps:
            raise InputError(
                "A range test needs reference_steps >= 2, factors > 1 and most_steps > reference_steps; "
                f"got {self.reference_steps}, {growths} and {self.most_steps}."
            )

    def start(self, step_size: float) -> RangeState:
        """The state before the first loss; `step_size` is the tiny rate of the reference steps."""
        return RangeState(step_size)

    def observe(self, state: RangeState, loss: float) -> RangeState:
        """Process the loss after a step at `state.step_size`; the new state holds the next rate.

        `improved` says that this loss is the lowest since the reference steps; `finished` that the test is over.
        """
        if state.finished:
            return state
        if not math.isfinite(loss):
            # Before any progress a loss that is not finite is due to its batch, as rates that tiny do no harm.
            broken = state.broken + 1
            return replace(state, broken=broken, finished=self._visible(state) or broken >= MOST_BROKEN, improved=False)
        spread_before = self.spread(state)
        seen = state.seen + 1
        change = 0.0 if math.isnan(state.previous) else loss - state.previous
        state = replace(state, seen=seen, previous=loss, squared_changes=state.squared_changes + change * change)
        if seen <= self.reference_steps:
            total, squares = state.total + loss, state.squared_losses + loss * loss
            step_size = state.step_size * self.factor if seen == self.reference_steps else state.step_size
            return replace(state, total=total, squared_losses=squares, step_size=step_size)
        improved = loss < state.lowest
        lowest = min(state.lowest, loss)
        trace = (*state.trace, (state.step_size, loss))
        base = self.base(state)
        drop = base - lowest
        # A divergence must not count as noise, so the spread before it decides; but after progress the losses scatter
        # more than at the start, and this loss is part of that evidence.
        diverged = loss > base + max(0.5 * abs(base), 6 * spread_before)
        spread = self.spread(state)
        turned = drop > max(0.05 * abs(base), 4 * spread) and loss > lowest + max(0.5 * drop, 4 * spread)
        # One batch may be unlucky: the loss of half of the gain must show twice, at the same rate.
        finished = diverged or (turned and state.turned) or seen >= self.most_steps
        after = replace(
            state, trace=trace, lowest=lowest, turned=turned, improved=improved and not finished, finished=finished
        )
        growth = 1.0 if finished or turned else self.factor if self._visible(after) else self.coarse_factor
        return replace(after, step_size=state.step_size * growth)

    def _visible(self, state: RangeState) -> bool:
        base = self.base(state)
        return base - state.lowest > max(0.01 * abs(base), 2 * self.spread(state))

    def base(self, state: RangeState) -> float:
        """l0, the mean loss of the reference steps."""
        return state.total / max(1, min(state.seen, self.reference_steps))

    def spread(self, state: RangeState) -> float:
        """σ = max(standard deviation of the reference losses, rms successive difference / sqrt 2)."""
        n = min(state.seen, self.reference_steps)
        variance = max(0.0, state.squared_losses - n * self.base(state) ** 2) / max(1, n - 1)
        changes = 0.5 * state.squared_changes / max(1, state.seen - 1)
        return math.sqrt(max(variance, changes))

    def diverged_at(self, state: RangeState) -> float:
        """η_div, the rate at which the test ended."""
        return state.step_size

    def progress_at(self, state: RangeState) -> float:
        """η_80, the first rate with 80 % of the whole drop behind it; η_div/10 if there was no drop."""
        base = self.base(state)
        drop = base - state.lowest
        if drop > 0:
            for step_size, loss in state.trace:
                if loss <= base - 0.8 * drop:
                    return step_size
        return state.step_size / 10
