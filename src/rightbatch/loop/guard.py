"""What a run does when it diverges: go back to the last good state and take smaller steps.

A run has diverged when numbers are not finite; also, with L₀ the mean of the first ten losses, R their range, L̄ the
loss smoothed over about 100 steps and L̄* its least value so far,

    loss > L₀ + 9 max(|L₀|, R) + 0.1 for 10 steps in a row:                     it has run away;
    L̄ > L̄* + 0.9 (L₀ - L̄*), where L₀ - L̄* ≥ max(|L₀|/2, R/4) was gained once:   all but a tenth of that is lost.

Into L̄ a loss counts as L₀ + max(|L₀|, R) at most. So single outliers, a rough beginning, a spike that passes and a loss
that merely rises again, as with a schedule or a harder part of the data, are no divergence.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..errors import DivergedError
from .averaging import ScheduleFree
from .snapshot import Snapshot

KEEP_EVERY_STEPS = 100
MOST_FAILURES = 5
CUT = 0.5
FIRST_STEPS = 10  # whose losses tell where the run began
RUNAWAY = 10  # times the first losses
RUNAWAY_STEPS = 10
LOST = 0.9  # of what was gained
SLOW = 0.01  # weight of a loss in the average that tells what was gained and lost


class _FirstLosses:
    """What the first losses say: their mean L₀ and range R, and from both when a gain is real and a loss too much."""

    def __init__(self, losses: list[float]) -> None:
        self.loss = sum(losses) / len(losses)
        spread = max(losses) - min(losses)
        size = max(abs(self.loss), spread)
        self.real_gain = max(abs(self.loss) / 2, spread / 4)
        self.most_counted = self.loss + size
        self.most_loss = self.loss + (RUNAWAY - 1) * size + 0.1


class Guard:
    """Keeps good states and counts failures.

    A state is kept every 100 steps while the smoothed loss is well: at most twice its least value and 0.1 more, and no
    half of the gain lost. A rule that guards itself judges losses, and says what to keep, instead. Five failures
    without 100 good steps in between end the run.

    Args:
        model: see `Snapshot`.
        optimizer: see `Snapshot`.
        averaging: see `Snapshot`.
        by_rule: the lr rule decides when to take a snapshot.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, averaging: ScheduleFree | None, by_rule: bool
    ) -> None:
        self._snapshot = Snapshot(model, optimizer, averaging)
        self._by_rule = by_rule
        self._first_losses: list[float] = []
        self._beginning: _FirstLosses | None = None  # until they are complete
        self._smooth_loss = self._lowest = math.nan
        self._slow_loss = self._slow_lowest = math.nan
        self._failures = 0
        self._good_steps = 0
        self._high_steps = 0
        self.cut = 1.0

    @property
    def snapshot_step(self) -> int:
        """The step whose state is kept."""
        return self._snapshot.step

    def before_step(self, step: int, loss: float) -> None:
        """Keep the present state again where it is due; `loss`, which is finite, was measured at it."""
        if self._by_rule:
            self._count_good()
            return
        self._high_steps = self._high_steps + 1 if self._high(loss) else 0
        self._absorb(loss)
        self._smooth_loss = loss if math.isnan(self._smooth_loss) else 0.9 * self._smooth_loss + 0.1 * loss
        self._lowest = self._smooth_loss if math.isnan(self._lowest) else min(self._lowest, self._smooth_loss)
        if not self._high_steps and not self._lost(self._slow_loss, self._slow_lowest, 0.5):
            self._count_good()
        if step - self._snapshot.step >= KEEP_EVERY_STEPS:
            near = self._smooth_loss <= self._lowest + abs(self._lowest) + 0.1
            if near and not self._lost(self._smooth_loss, self._lowest, 0.5):
                self._snapshot.take(step)

    def divergence(self, loss: float) -> str:
        """Why the run has diverged, though its numbers are finite, `loss` being that of this step; empty if not."""
        if self._high_steps >= RUNAWAY_STEPS - 1 and self._high(loss):
            return f"the loss has run away from {self._first_losses[0]:.3g} at first to {loss:.3g}"
        if self._beginning is not None and self._lost(self._slow_loss, self._slow_lowest, LOST):
            return (
                f"the loss has stayed near {self._smooth_loss:.3g}, having come from {self._beginning.loss:.3g} to "
                f"{self._slow_lowest:.3g} before"
            )
        return ""

    def _absorb(self, loss: float) -> None:
        """Take a loss into those that tell where the run began, or into the slow average."""
        if self._beginning is not None:
            self._slow_loss += SLOW * (min(loss, self._beginning.most_counted) - self._slow_loss)
            self._slow_lowest = min(self._slow_lowest, self._slow_loss)
            return
        self._first_losses.append(loss)
        if len(self._first_losses) == FIRST_STEPS:
            self._beginning = _FirstLosses(self._first_losses)
            self._slow_loss = self._slow_lowest = self._beginning.loss

    def _count_good(self) -> None:
        self._good_steps += 1
        if self._good_steps >= KEEP_EVERY_STEPS:
            self._failures = 0

    def _high(self, loss: float) -> bool:
        """Whether a loss is out of all proportion."""
        return self._beginning is not None and loss > self._beginning.most_loss

    def _lost(self, loss: float, lowest: float, share: float) -> bool:
        """Whether more than this share of a real gain is lost."""
        if self._beginning is None:
            return False
        gain = self._beginning.loss - lowest
        return gain >= self._beginning.real_gain and loss > lowest + share * gain

    def snapshot(self, step: int) -> None:
        """Keep the present state, a rule having asked for it."""
        self._snapshot.take(step)

    def replace(self, optimizer: torch.optim.Optimizer, averaging: ScheduleFree) -> None:
        """Another averaging, with its optimizer, has taken the place of the one before."""
        self._snapshot.optimizer, self._snapshot.averaging = optimizer, averaging

    def restore(self) -> None:
        """Go back to the state last kept, no failure having happened."""
        self._snapshot.restore()

    def fail(self, step: int, reason: str, cut: bool) -> DivergedError | None:
        """Go back to the state last kept; with `cut` also halve all learning rates from now on.

        Returns:
            The error to end the run with, if this was one failure too many.
        """
        self._failures += 1
        self._good_steps = self._high_steps = 0
        self._slow_loss = self._slow_lowest
        self._smooth_loss = math.nan
        self._snapshot.restore()
        if cut:
            self.cut *= CUT
        if self._failures >= MOST_FAILURES:
            return DivergedError(
                f"Training was stopped at step {step}: {reason}, {self._failures} times in a row, though the step "
                "size was cut each time. The model holds its last good state. Look for bad values in the data (inputs "
                "far from zero mean and unit scale, targets out of range), for a loss that takes the logarithm or a "
                "root of zero, or begin with a smaller learning rate."
            )
        return None

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs."""
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        return {"snapshot": self._snapshot.state_dict(), "first_losses": list(self._first_losses), **numbers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._snapshot.load_state_dict(state["snapshot"])
        self._first_losses = list(state["first_losses"])
        self._beginning = _FirstLosses(self._first_losses) if len(self._first_losses) == FIRST_STEPS else None
        for name in _NUMBERS:
            setattr(self, name, state[name])


_NUMBERS = (
    "_smooth_loss",
    "_lowest",
    "_slow_loss",
    "_slow_lowest",
    "_failures",
    "_good_steps",
    "_high_steps",
    "cut",
)
