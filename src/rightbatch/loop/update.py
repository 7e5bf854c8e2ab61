"""Update: what moves the parameters, an optimizer, averaging or not, at the learning rates that rules decide."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..decision import Decision, ForkingRule, LRRule
from ..errors import DivergedError, InputError
from ..measurements import Movement
from .averaging import ScheduleFree
from .clip import Clip
from .distributed.sharding import fresh, gather_full, optimizer_state_like, require_steps, reshard, sharded_modules
from .gather import Totals
from .gradients import Gradients
from .guard import CUT, Guard
from .iterate_averages import IterateAverages
from .loss_scale import LossScale
from .optimizer_settings import apply_settings, given_settings, keep_given
from .snapshot import load_optimizer

WORTH_REPORTING = 1.1  # by what factor the learning rate must have changed
DEFAULT_LR = 1e-2
LAST, SHIPPED = "last", "short"
OUTSIDE_STEPS = 3  # changes of the rate by someone else, one at each step, before it is warned of
SCHEDULED_OUTSIDE = (
    "The learning rate is changed from outside at every optimizer step, as by a torch scheduler, while the batch size "
    "changes: the schedule no longer keeps its place in the data. Give the scheduler as "
    "lr=rightbatch.per_sample(make_scheduler, samples=...), which counts samples."
)


def plain_sgd(parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer brought along for most rules."""
    return torch.optim.SGD(parameters, lr=DEFAULT_LR)


def nesterov_adam(parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """That of rules that choose the rate for Adam: Nesterov's momentum, a short memory of squares, decoupled decay.

    Such a large `momentum_decay` turns the warm-up of the momentum off.
    """
    return torch.optim.NAdam(
        parameters,
        lr=DEFAULT_LR,
        betas=(0.9, 0.98),
        eps=1e-10,
        momentum_decay=1e4,
        decoupled_weight_decay=True,
        foreach=True,
    )


class Update:
    """Takes steps, sets their length, and goes back to a good state where that is wanted.

    A rate that is decided is that of the first parameter group with a rate above 0; the others keep their ratios to it,
    and a group at 0 stays at 0. A rate that a warm-up has set to 0 counts as the group's `initial_lr`.

    Args:
        model: whose parameters move.
        gradients: along which they move.
        optimizer: the caller's; None brings one that suits the rule.
        rule: the lr rule; averages by schedule-free averaging if it wants that, and guards itself or is guarded.
        clip: bounds the gradient of each step.
        loss_scale: adapts to what becomes of each step.

    Raises:
        InputError: every learning rate of the optimizer is 0.
    """

    def __init__(
        self,
        model: nn.Module,
        gradients: Gradients,
        optimizer: torch.optim.Optimizer | None,
        rule: LRRule,
        clip: Clip,
        loss_scale: LossScale,
    ) -> None:
        require_steps(rule, gradients.parameters)
        self._model = model
        self._gradients = gradients
        self._sharded = sharded_modules(model)
        self._rule = rule
        self.clip = clip
        self.loss_scale = loss_scale
        self._given = optimizer
        self._given_settings = given_settings(optimizer) if optimizer is not None else []
        self._averaging = ScheduleFree(model, optimizer) if rule.averages else None
        own = self._averaging.optimizer if self._averaging is not None else optimizer
        forks = isinstance(rule, ForkingRule)
        self.optimizer: torch.optim.Optimizer = own or (nesterov_adam if forks else plain_sgd)(gradients.parameters)
        self._averages = IterateAverages(model, gradients) if forks else None
        self.shipped = SHIPPED  # of the iterate and its averages, the one to ship
        self.forking = False  # forks of the run take turns: none of them is the run that the guard looks after
        self._guard = Guard(model, self.optimizer, self._averaging, by_rule=rule.guards)
        self.sums = False  # whether the loss is a sum: steps then go along the sum, measurements are of the mean
        self._outside = _OutsideRates()
        self._read_groups()
        self.lr = self.reported_lr = self._base_rate()

    def _read_groups(self) -> None:
        """The ratios of the groups' rates to that of the first group with one."""
        rates = [_rate(group) or float(group.get("initial_lr", 0.0)) for group in self.optimizer.param_groups]
        if not any(rates) and self._given is not None:
            raise InputError(
                f"Every learning rate of the {type(self._given).__name__} is 0, so that nothing would move: give it a "
                "rate above 0 in at least one parameter group."
            )
        self._base = next((place for place, rate in enumerate(rates) if rate), 0)
        base = rates[self._base]
        self._ratios = [rate / base if base else 1.0 for rate in rates]

    @property
    def averages(self) -> bool:
        """Whether the iterate to evaluate is another than the one being trained."""
        return self._averaging is not None

    @property
    def iterates(self) -> tuple[str, ...]:
        """What may be shipped: the iterate itself, "last", and averages of the last ones."""
        return (LAST, *(self._averages.names if self._averages is not None else ()))

    def start_averages(self) -> None:
        """From here on iterates are averaged."""
        if self._averages is not None:
            self._averages.restart()

    @property
    def moved(self) -> list[nn.Parameter]:
        """The parameters that the optimizer moves, of those whose gradients are gathered."""
        held = {p for group in self.optimizer.param_groups for p in group["params"]}
        return [p for p in self._gradients.parameters if p in held]

    @property
    def moves_all(self) -> bool:
        """Whether it moves all of them."""
        return len(self.moved) == len(self._gradients.parameters)

    @property
    def movement(self) -> Movement | None:
        """Of the averaged iterate, where there is one."""
        return None if self._averaging is None else self._averaging.movement

    @property
    def snapshot_step(self) -> int:
        """The step of the state that a failure goes back to; negative before `begin`."""
        return self._guard.snapshot_step

    @property
    def worth_reporting(self) -> bool:
        """Whether the learning rate has changed by a tenth since it was last reported."""
        return not self.reported_lr / WORTH_REPORTING <= self.lr <= self.reported_lr * WORTH_REPORTING

    @contextmanager
    def averaged(self, name: str | None = None) -> Iterator[None]:
        """Within, the model holds the iterate to evaluate and to ship; or the one of that name, see `iterates`."""
        if self._averaging is not None:
            exchanged = self._averaging.averaged()
        elif self._averages is not None and (name or self.shipped) != LAST:
            exchanged = self._averages.shown(name or self.shipped)
        else:
            yield
            return
        with fresh(self._sharded, exchanged):
            torch.clear_autocast_cache()
            yield
        torch.clear_autocast_cache()

    def finalize(self) -> None:
        """Put the iterate to ship into the model, for good."""
        reshard(self._sharded)
        if self._averaging is not None:
            self._averaging.finalize()
        if self._averages is not None:
            self._averages.put(self.shipped)
        torch.clear_autocast_cache()

    def begin(self, step: int) -> None:
        """A batch begins: take a snapshot if there is none to go back to."""
        reshard(self._sharded)
        if self._guard.snapshot_step < 0:
            self._guard.snapshot(step)

    def refresh(self, step: int) -> None:
        """Take in parameters that were frozen, unfrozen or added."""
        if self._averaging is not None:
            self._averaging.finalize()
            self._averaging = ScheduleFree(self._model, self._given)
            self.optimizer = self._averaging.optimizer
            self._guard.replace(self.optimizer, self._averaging)
        elif self._given is None:  # the optimizer brought along trains all that is trainable
            held = {p for group in self.optimizer.param_groups for p in group["params"]}
            added = [p for p in self._gradients.parameters if p not in held]
            if added:
                self.optimizer.add_param_group({"params": added, "lr": self._base_rate()})
        self.start_averages()
        self._read_groups()
        self._guard.snapshot(step)

    def set_lr(self, lr: float | None) -> None:
        """Set the learning rate, less what failures have cut it by; None leaves it to whoever has set it."""
        if lr is not None:
            for group, ratio in zip(self.optimizer.param_groups, self._ratios, strict=True):
                _set_rate(group, lr * ratio * self._guard.cut)
        self.lr = self._base_rate()

    def direction(self, totals: Totals) -> float:
        """Make the gradients gathered those of the mean loss, clipped; return ‖g‖² of what is left."""
        sums = self.sums and not self._rule.searches
        return self.clip.apply(self._gradients, totals.scale, totals.norm2, totals.samples if sums else 1)

    def prepare(self, decision: Decision, step: int, loss: float, batch_size: int) -> None:
        """Do what an lr rule has decided but for the step itself: snapshot, rollback, the rate and other settings."""
        if self._outside.scheduled(self.optimizer, batch_size):
            warnings.warn(SCHEDULED_OUTSIDE, stacklevel=4)
        if decision.action == "rollback":
            self._guard.restore()
        elif decision.action == "snapshot":
            self._guard.snapshot(step)
        if not self.forking:
            self._guard.before_step(step, loss)
        self.set_lr(decision.lr)
        apply_settings(self.optimizer, decision.settings)

    def step(self, samples: int) -> None:
        """Move along the gradients in the parameters, the mean over so many samples."""
        _STEPPED_BY_US.add(id(self.optimizer))
        if self._averages is not None:
            self._averages.begin_step()
        try:
            if self._averaging is not None:
                self._averaging.step(samples, self.lr)
            else:
                self.optimizer.step()
                if self._averages is not None and not self.forking:
                    self._averages.update()
        finally:
            _STEPPED_BY_US.discard(id(self.optimizer))
        self._outside.note(self.optimizer)
        self.loss_scale.adapt(overflowed=False)
        torch.clear_autocast_cache()  # which holds the weights of before, if the caller's autocast surrounds the loop

    def divergence(self, loss: float) -> str:
        """Why the run has diverged, though its numbers are finite; empty if it has not, or the rule judges itself."""
        return "" if self.forking else self._guard.divergence(loss)

    def fail(self, step: int, reason: str) -> DivergedError | None:
        """Go back to the last snapshot and, where the rule does not do so itself, halve the learning rate.

        Returns:
            The error to end the run with, if this was one failure too many.
        """
        cuts = not self._rule.guards
        diverged = self._guard.fail(step, reason, cut=cuts)
        if cuts:
            for group in self.optimizer.param_groups:
                _set_rate(group, _rate(group) * CUT)
            self.set_lr(None)
        self.start_averages()
        torch.clear_autocast_cache()
        return diverged

    def _base_rate(self) -> float:
        return _rate(self.optimizer.param_groups[self._base])

    def state_dict(self) -> dict[str, Any]:
        """All that goes with the model's own state."""
        return {
            "kind": type(self.optimizer).__name__,
            "groups": [len(group["params"]) for group in self.optimizer.param_groups],
            "given": [dict(settings) for settings in self._given_settings],
            "optimizer": gather_full(self.optimizer.state_dict()) if self._averaging is None else None,
            "averaging": None if self._averaging is None else gather_full(self._averaging.state_dict()),
            "averages": None if self._averages is None else self._averages.state_dict(),
            "shipped": self.shipped,
            "guard": gather_full(self._guard.state_dict()),
            "reported_lr": self.reported_lr,
            "scaler": self.loss_scale.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
        """Continue from `state`; settings that the caller now gives otherwise than then are those given now.

        Returns:
            (name, then, now) of each setting that differs.

        Raises:
            InputError: the state is of another optimizer, or of other parameter groups.
        """
        self._require_same_optimizer(state)
        reshard(self._sharded)
        if self._averaging is not None and state["averaging"] is not None:
            self._averaging.load_state_dict(state["averaging"])
        elif self._averaging is None and state["optimizer"] is not None:
            load_optimizer(self.optimizer, optimizer_state_like(self.optimizer, state["optimizer"]))
        if self._averages is not None and state["averages"] is not None:
            self._averages.load_state_dict(state["averages"])
        self.shipped = state["shipped"]
        self._guard.load_state_dict(state["guard"])
        changed = keep_given(self.optimizer, state["given"], self._given_settings, self._guard.cut)
        self.loss_scale.load_state_dict(state["scaler"])
        self.lr = self._base_rate()
        self.reported_lr = state["reported_lr"]
        return changed

    def _require_same_optimizer(self, state: Mapping[str, Any]) -> None:
        kind, groups = type(self.optimizer).__name__, [len(group["params"]) for group in self.optimizer.param_groups]
        averages = state["averaging"] is not None
        if kind != state["kind"] or averages != self.averages:
            raise InputError(
                f"The saved run has the optimizer {_named(state['kind'], averages)}, this one has "
                f"{_named(kind, self.averages)}: give the saved one, or start a new run."
            )
        if groups != state["groups"]:
            raise InputError(
                f"The saved run has parameter groups of {state['groups']} parameters, this one of {groups}: give the "
                "optimizer the same groups, or start a new run."
            )


_STEPPED_BY_US: set[int] = set()  # optimizers, by their id, while a loop of ours steps them


def is_stepped_by_us(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a loop of this library steps the optimizer at this moment."""
    return id(optimizer) in _STEPPED_BY_US


def _named(kind: str, averages: bool) -> str:
    return f"{kind} with schedule-free averaging" if averages else kind


class _OutsideRates:
    """Notices a learning rate that someone else changes at every step although the batch size changes."""

    def __init__(self) -> None:
        self._rates: list[float] = []
        self._sizes: set[int] = set()
        self._changes = 0
        self._warned = False

    def scheduled(self, optimizer: torch.optim.Optimizer, batch_size: int) -> bool:
        """Whether to warn, once."""
        if self._warned or not self._rates:
            return False
        self._sizes.add(batch_size)
        changed = self._rates != [_rate(group) for group in optimizer.param_groups]
        self._changes = self._changes + 1 if changed else 0
        self._warned = self._changes >= OUTSIDE_STEPS and len(self._sizes) >= OUTSIDE_STEPS
        return self._warned

    def note(self, optimizer: torch.optim.Optimizer) -> None:
        """A step was taken at these rates."""
        if not self._warned:
            self._rates = [_rate(group) for group in optimizer.param_groups]


def _rate(group: Mapping[str, Any]) -> float:
    return float(group["lr"])


def _set_rate(group: dict[str, Any], rate: float) -> None:
    if isinstance(group["lr"], torch.Tensor):  # of a capturable optimizer
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate
