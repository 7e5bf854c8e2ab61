"""What a run does when numbers stop being finite: go back to the last good state and take smaller steps."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..errors import DivergedError
from .averaging import ScheduleFree
from .kept import Kept

KEEP_EVERY_STEPS = 100
MOST_FAILURES = 5
CUT = 0.5


class Guard:
    """Keeps good states and counts failures.

    A state is kept every 100 steps while the smoothed loss has not run away; a rule that guards itself says so
    instead. Five failures without 100 good steps in between end the run.

    Args:
        model: see `Kept`.
        optimizer: see `Kept`.
        averaging: see `Kept`.
        by_rule: the step rule says when to keep.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, averaging: ScheduleFree | None, by_rule: bool
    ) -> None:
        self._kept = Kept(model, optimizer, averaging)
        self._by_rule = by_rule
        self._smooth_loss = self._lowest = math.nan
        self._failures = 0
        self._good_steps = 0
        self.cut = 1.0

    @property
    def kept_step(self) -> int:
        """The step whose state is kept."""
        return self._kept.step

    def before_step(self, step: int, loss: float) -> None:
        """Keep the present state again where it is due; `loss`, which is finite, was measured at it."""
        self._good_steps += 1
        if self._good_steps >= KEEP_EVERY_STEPS:
            self._failures = 0
        if self._by_rule:
            return
        self._smooth_loss = loss if math.isnan(self._smooth_loss) else 0.9 * self._smooth_loss + 0.1 * loss
        self._lowest = self._smooth_loss if math.isnan(self._lowest) else min(self._lowest, self._smooth_loss)
        if step - self._kept.step >= KEEP_EVERY_STEPS and self._smooth_loss <= self._lowest + abs(self._lowest) + 0.1:
            self._kept.keep(step)

    def keep(self, step: int) -> None:
        """Keep the present state, a rule having asked for it."""
        self._kept.keep(step)

    def restore(self) -> None:
        """Go back to the state last kept, no failure having happened."""
        self._kept.restore()

    def fail(self, step: int, reason: str, cut: bool) -> DivergedError | None:
        """Go back to the state last kept; with `cut` also halve all step sizes from now on.

        Returns:
            The error to end the run with, if this was one failure too many.
        """
        self._failures += 1
        self._good_steps = 0
        self._smooth_loss = math.nan
        self._kept.restore()
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
        return {"kept": self._kept.state_dict(), **numbers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._kept.load_state_dict(state["kept"])
        for name in _NUMBERS:
            setattr(self, name, state[name])


_NUMBERS = ("_smooth_loss", "_lowest", "_failures", "_good_steps", "cut")
