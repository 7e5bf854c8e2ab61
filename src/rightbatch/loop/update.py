"""What moves the parameters: an optimizer, averaging or not, at the learning rates that rules decide."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from ..decision import Decision, LRRule
from ..errors import DivergedError
from ..measurements import Movement
from .averaging import ScheduleFree
from .distributed.sharding import fresh, optimizer_state_apart, require_steps, reshard, sharded_modules, whole
from .guard import CUT, Guard
from .optimizer_settings import apply_settings

WORTH_TELLING = 1.1  # by what factor the learning rate must have changed
DEFAULT_RATE = 1e-2


class Stepper:
    """Takes steps, sets their size, and goes back to a good state where that is wanted.

    A rate that is decided is that of the optimizer's first parameter group; the others keep their ratios to it.

    Args:
        model: whose parameters move.
        parameters: those that are trained.
        optimizer: the caller's; None brings one that suits the rule.
        rule: the step rule; averages by schedule-free averaging if it wants that, and guards itself or is guarded.
    """

    def __init__(
        self, model: nn.Module, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer | None, rule: LRRule
    ) -> None:
        require_steps(rule, parameters)
        self._sharded = sharded_modules(model)
        self._averaging = ScheduleFree(model, optimizer) if rule.averages else None
        given = self._averaging.optimizer if self._averaging is not None else optimizer
        self.optimizer: torch.optim.Optimizer = given or torch.optim.SGD(parameters, lr=DEFAULT_RATE)
        self._guarded = not rule.guards
        self._guard = Guard(model, self.optimizer, self._averaging, by_rule=rule.guards)
        self.lr = self.told_rate = base = self._first_rate()
        self._ratios = [float(group["lr"]) / base if base else 1.0 for group in self.optimizer.param_groups]

    @property
    def averages(self) -> bool:
        """Whether the iterate to evaluate is another than the one being trained."""
        return self._averaging is not None

    @property
    def movement(self) -> Movement | None:
        """Of the averaged iterate, where there is one."""
        return None if self._averaging is None else self._averaging.movement

    @property
    def kept_step(self) -> int:
        """The step of the state that a failure goes back to; negative before `begin`."""
        return self._guard.kept_step

    @property
    def worth_telling(self) -> bool:
        """Whether the learning rate has changed by a tenth since it was last told."""
        return not self.told_rate / WORTH_TELLING <= self.lr <= self.told_rate * WORTH_TELLING

    def averaged(self) -> AbstractContextManager[None]:
        """Within, the model holds the iterate to evaluate and to ship."""
        return fresh(self._sharded, self._averaging.averaged()) if self._averaging is not None else nullcontext()

    def finalize(self) -> None:
        """Put the iterate to ship into the model, for good."""
        reshard(self._sharded)
        if self._averaging is not None:
            self._averaging.finalize()

    def begin(self, step: int) -> None:
        """Keep the present state, if there is none to go back to."""
        reshard(self._sharded)
        if self._guard.kept_step < 0:
            self._guard.keep(step)

    def set_rate(self, rate: float | None) -> None:
        """Set the learning rate, less what failures have cut it by; None leaves it to whoever has set it."""
        if rate is not None:
            for group, ratio in zip(self.optimizer.param_groups, self._ratios, strict=True):
                group["lr"] = rate * ratio * self._guard.cut
        self.lr = self._first_rate()

    def prepare(self, decision: Decision, step: int, loss: float) -> None:
        """Do what a step rule has decided but for the step itself: keep a state or go back to one, set the rate."""
        if decision.action == "rollback":
            self._guard.restore()
        elif decision.action == "snapshot":
            self._guard.keep(step)
        self._guard.before_step(step, loss)
        self.set_rate(decision.lr)
        apply_settings(self.optimizer, decision.settings)

    def step(self, samples: int) -> None:
        """Move along the gradients in the parameters, the mean over so many samples."""
        if self._averaging is not None:
            self._averaging.step(samples, self.lr)
        else:
            self.optimizer.step()

    def divergence(self, loss: float) -> str:
        """Why the run has diverged, though its numbers are finite; empty if it has not, or the rule judges itself."""
        return self._guard.divergence(loss)

    def fail(self, step: int, reason: str) -> DivergedError | None:
        """Go back to the state last kept and, where the rule does not do so itself, halve the step size.

        Returns:
            The error to end the run with, if this was one failure too many.
        """
        diverged = self._guard.fail(step, reason, cut=self._guarded)
        if self._guarded:
            for group in self.optimizer.param_groups:
                group["lr"] *= CUT
            self.set_rate(None)
        return diverged

    def _first_rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def state_dict(self) -> dict[str, Any]:
        """All that goes with the model's own state."""
        return {
            "optimizer": whole(self.optimizer.state_dict()) if self._averaging is None else None,
            "averaging": None if self._averaging is None else whole(self._averaging.state_dict()),
            "guard": whole(self._guard.state_dict()),
            "told_rate": self.told_rate,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        reshard(self._sharded)
        if self._averaging is not None:
            self._averaging.load_state_dict(state["averaging"])
        else:
            self.optimizer.load_state_dict(optimizer_state_apart(self.optimizer, state["optimizer"]))
        self._guard.load_state_dict(state["guard"])
        self.lr = self._first_rate()
        self.told_rate = state["told_rate"]
