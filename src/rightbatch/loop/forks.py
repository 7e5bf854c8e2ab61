"""Forks: a run goes on from one state at several learning rates, with the same batches, before one of them is chosen.

A batch is handed out once for each fork, with the same random numbers, the model holding the fork's state. Each of its
turns is a step like any other; the last one uses the batch up. After a round the forks are judged: the model holds the
average of the fork's iterates, and the loss of samples that come next is taken without a gradient.

Memory: for each fork a copy of the parameters, of their average, of the buffers and of the optimizer's state.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..decision import Decision, ForkingRule, Outlook, Round, Search
from ..noise.isolation import random_state, set_random_state
from .decide import Decide
from .distributed.sharding import gather_full, parts, shard_like
from .gradients import Gradients
from .snapshot import copied
from .update import Update

Place = tuple[int, int]


@dataclass(slots=True)
class Fork:
    """The state of one fork while another is in the model.

    Args:
        parameters: trainable ones.
        buffers: of the model.
        average: of the iterates, the j-th weighted by j; the start counts as the first.
        state: the optimizer's, by parameter.
        settings: of its parameter groups.
        steps: in the average.
        failed: its numbers were not finite: it takes no more turns.
    """

    parameters: list[Tensor]
    buffers: list[Tensor]
    average: list[Tensor]
    state: dict[Any, Any]
    settings: list[dict[str, Any]]
    steps: int = 0
    failed: bool = False


class Forks:
    """Plays the rounds that an lr rule asks for.

    Args:
        model: whose state is forked.
        gradients: knows the trainable parameters.
        update: steps them.
        decide: keeps the rule and its state.
        seek: returns to a place in the data.
        ready: whether the size of batches is settled as far as it can be.
        device: the model's.
    """

    def __init__(
        self,
        model: nn.Module,
        gradients: Gradients,
        update: Update,
        decide: Decide,
        seek: Callable[[int, int], None],
        ready: Callable[[], bool],
        device: torch.device,
    ) -> None:
        rule = decide.lr_rule
        self._rule: ForkingRule | None = rule if isinstance(rule, ForkingRule) else None
        self._model = model
        self._gradients = gradients
        self._update = update
        self._decide = decide
        self._seek = seek
        self._ready = ready
        self._device = device
        self._round: Round | None = None
        self._forks: list[Fork] = []
        self._turn = 0
        self._steps = 0
        self._losses: list[float] = []
        self._random: list[Tensor] = []
        self._held: list[Tensor] = []  # what is forked
        self._versions: list[int] = []  # of these, as they were put into the model
        self.over = self._rule is None
        self.extra_samples = 0  # passed beyond those of a run without forks

    @property
    def active(self) -> bool:
        """Whether a round is under way."""
        return self._round is not None

    @property
    def first_turn(self) -> bool:
        """Whether the batch is handed out for the first time."""
        return self._round is None or self._turn == self._next(0)

    @property
    def judging(self) -> bool:
        """Whether the forks have taken the steps of the round and are judged."""
        return self._round is not None and self._steps >= self._round.steps

    @property
    def samples(self) -> int:
        """To judge on."""
        return 0 if self._round is None else self._round.samples

    @property
    def lr(self) -> float:
        """Of the fork in the model; nan where there is none."""
        return math.nan if self._round is None else self._round.lrs[self._turn]

    def search(self) -> Search:
        """Its rate, in place of what the rule decides for a batch."""
        yield from ()
        return Decision(lr=self.lr, code="fork"), self._decide.lr_state

    def begin(self, outlook: Callable[[], Outlook]) -> bool:
        """A batch begins: open a round where one is due, and let each fork see the same random numbers.

        Returns:
            False where the program has set weights since the last turn, which are those of one fork only.
        """
        if self.over:
            return True
        if self._round is not None and self._changed():
            return False
        if self._round is None:
            if not self._ready():
                return True
            assert self._rule is not None
            self._round, self._decide.lr_state = self._rule.round(outlook(), self._decide.lr_state)
            if self._round is None:
                self._close()
                return True
            self._open(self._round)
        if self.first_turn:
            self._random = random_state(self._device)
        else:
            set_random_state(self._random, self._device)
        return True

    def _changed(self) -> bool:
        if [p._version for p in self._held] == self._versions:
            return False
        fork = self._forks[self._turn]
        loaded = parts(fork.average if self.judging else fork.parameters)
        return not all(map(torch.equal, parts(self._parameters), loaded))

    def _open(self, round_: Round) -> None:
        self._steps = 0
        self._losses = []
        self._update.forking = True
        if not self._forks:
            self._held = list(self._gradients.parameters)
            self._forks = [self._copy() for _ in round_.lrs]
        self._turn = 0
        self._load(0)

    def _next(self, turn: int) -> int:
        """The first turn from this one on that a fork takes; their number where none does."""
        return next((at for at in range(turn, len(self._forks)) if not self._forks[at].failed), len(self._forks))

    def end_turn(self, origin: Place, samples: int, stepped: bool = True, failed: bool = False) -> bool:
        """The fork in the model has taken the batch; whether all have.

        Args:
            origin: where the batch begins, to which the data return for the next fork.
            samples: of the batch.
            stepped: whether the parameters were updated.
            failed: the fork's numbers are not finite.
        """
        if self._round is None:
            return True
        self._forks[self._turn].failed = failed
        if not failed:
            self._park(self._forks[self._turn], stepped)
        self._turn = self._next(self._turn + 1)
        if self._turn < len(self._forks):
            self.extra_samples += samples
            self._seek(*origin)
            self._load(self._turn)
            return False
        self._steps += 1
        self._turn = self._next(0)
        if self._turn < len(self._forks):
            self._load(self._turn)
        return True

    @property
    def all_failed(self) -> bool:
        """Whether a round is under way that no fork has survived."""
        return self._round is not None and self._next(0) == len(self._forks)

    def judge(self, loss: float, origin: Place, samples: int) -> Decision | None:
        """The fork in the model has this mean loss on the fresh samples; what the rule decides after the last."""
        while len(self._losses) < self._turn:
            self._losses.append(math.nan)  # of those that failed
        self._losses.append(loss)
        self.extra_samples += samples
        self._seek(*origin)
        self._turn = self._next(self._turn + 1)
        if self._turn < len(self._forks):
            self._load(self._turn)
            return None
        return self.end_round()

    def end_round(self) -> Decision:
        """Let the rule decide which forks go on; where one is left, the run continues as that one."""
        assert self._rule is not None
        losses = self._losses + [math.nan] * (len(self._forks) - len(self._losses))
        decision, kept, self._decide.lr_state = self._rule.judged(tuple(losses), self._decide.lr_state)
        self._forks = [self._forks[at] for at in kept]
        self._round = None
        self._turn = self._steps = 0
        if self._forks:
            self._load(0)
        if len(self._forks) <= 1:
            self._close()
        return decision

    def give_up(self) -> Decision | None:
        """No more rounds: the run continues as the fork in the model; what the rule decides, where it wanted some."""
        if self.over:
            return None
        assert self._rule is not None
        decision, self._decide.lr_state = self._rule.without_rounds(self._decide.lr_state)
        self._round = None
        self._close()
        return decision

    def _close(self) -> None:
        self._forks = []
        self.over = True
        self._update.forking = False
        self._update.start_averages()

    # States of forks.

    @property
    def _parameters(self) -> list[Tensor]:
        return [p.detach() for p in self._held]

    @property
    def _optimized(self) -> list[Tensor]:
        return [p for group in self._update.optimizer.param_groups for p in group["params"]]

    @torch.no_grad()
    def _copy(self) -> Fork:
        """A fork of the state in the model."""
        optimizer = self._update.optimizer
        return Fork(
            [p.clone() for p in self._parameters],
            [b.clone() for b in self._model.buffers()],
            [p.clone() for p in self._parameters],
            {parameter: copied(kept) for parameter, kept in optimizer.state.items()},
            [_settings(group) for group in optimizer.param_groups],
        )

    @torch.no_grad()
    def _park(self, fork: Fork, stepped: bool) -> None:
        """Take the state in the model, the optimizer's without a copy, and the iterate into the average."""
        torch._foreach_copy_(parts(fork.parameters), parts(self._parameters))
        if fork.buffers:
            torch._foreach_copy_(fork.buffers, list(self._model.buffers()))
        optimizer = self._update.optimizer
        fork.state = dict(optimizer.state)
        fork.settings = [_settings(group) for group in optimizer.param_groups]
        if stepped:
            fork.steps += 1
            torch._foreach_lerp_(parts(fork.average), parts(fork.parameters), 2 / (fork.steps + 1))

    @torch.no_grad()
    def _load(self, at: int) -> None:
        """Put a fork into the model; where forks are judged, its average."""
        fork = self._forks[at]
        torch._foreach_copy_(parts(self._parameters), parts(fork.average if self.judging else fork.parameters))
        if fork.buffers:
            torch._foreach_copy_(list(self._model.buffers()), fork.buffers)
        optimizer = self._update.optimizer
        optimizer.state = defaultdict(dict, fork.state)
        for group, settings in zip(optimizer.param_groups, fork.settings, strict=True):
            group.update(settings)
        torch.clear_autocast_cache()
        self._versions = [p._version for p in self._held]

    # Saving.

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs to continue bit for bit."""
        held = self._optimized
        forks = [
            {
                "parameters": fork.parameters,
                "buffers": fork.buffers,
                "average": fork.average,
                "state": [fork.state.get(p) for p in held],
                "settings": fork.settings,
                "steps": fork.steps,
                "failed": fork.failed,
            }
            for fork in self._forks
        ]
        round_ = self._round
        return {
            "over": self.over,
            "round": None if round_ is None else [list(round_.lrs), round_.steps, round_.samples],
            "turn": self._turn,
            "steps": self._steps,
            "losses": list(self._losses),
            "random": list(self._random),
            "extra_samples": self.extra_samples,
            "forks": gather_full(forks),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`; the model holds the fork whose turn it is."""
        self.over, self._turn, self._steps = state["over"], state["turn"], state["steps"]
        self._losses, self._random = list(state["losses"]), list(state["random"])
        self.extra_samples = state["extra_samples"]
        saved = state["round"]
        self._round = None if saved is None else Round(tuple(saved[0]), saved[1], saved[2])
        self._update.forking = self._round is not None
        self._held = list(self._gradients.parameters)
        own = self._parameters, list(self._model.buffers()), self._optimized
        self._forks = [_restored(fork, *own) for fork in state["forks"]]
        if self._forks:
            self._load(self._turn)


def _restored(
    saved: Mapping[str, Any], parameters: list[Tensor], buffers: list[Tensor], optimized: list[Tensor]
) -> Fork:
    """A fork as it was saved, spread and placed as the model's own tensors are."""

    def entry(value: Any, parameter: Tensor) -> Any:
        if not isinstance(value, Tensor):
            return value
        return shard_like(value.clone(), parameter) if value.shape == parameter.shape else value.clone()

    state = {
        p: {name: entry(value, p) for name, value in kept.items()}
        for p, kept in zip(optimized, saved["state"], strict=True)
        if kept is not None
    }
    return Fork(
        [entry(p, own) for p, own in zip(saved["parameters"], parameters, strict=True)],
        [b.to(own.device).clone() for b, own in zip(saved["buffers"], buffers, strict=True)],
        [entry(p, own) for p, own in zip(saved["average"], parameters, strict=True)],
        state,
        copied(saved["settings"]),
        saved["steps"],
        saved["failed"],
    )


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    """What a parameter group holds besides parameters and rate; some optimizers keep numbers of the run there."""
    return {name: copied(value) for name, value in group.items() if name not in ("params", "lr")}
