"""The last good state of a run, to return to when numbers stop being finite or a rule asks for it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .averaging import ScheduleFree
from .distributed.sharding import optimizer_state_like, parts, shard_like


class Snapshot:
    """One remembered state: parameters, buffers and optimizer; of an averaging run the average, which restarts it.

    Args:
        model: whose trainable parameters and buffers are kept.
        optimizer: whose state is kept.
        averaging: the run's averaging, if it averages.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, averaging: ScheduleFree | None) -> None:
        self._model = model
        self.optimizer = optimizer
        self.averaging = averaging
        self._parameters: list[Tensor] = []
        self._buffers: list[Tensor] = []
        self._average: Tensor | None = None
        self._optimizer_state: dict[str, Any] = {}
        self.step = -1

    @torch.no_grad()
    def take(self, step: int) -> None:
        """Remember the present state as that of `step`."""
        self._buffers = [b.clone() for b in self._model.buffers()]
        if self.averaging is not None:
            self._average = self.averaging.average()
        else:
            self._parameters = [p.detach().clone() for p in self._model.parameters() if p.requires_grad]
            self._optimizer_state = copied(self.optimizer.state_dict())
        self.step = step

    @torch.no_grad()
    def restore(self) -> None:
        """Put the remembered state back; an averaging run begins again from its average."""
        for buffer, kept in zip(self._model.buffers(), self._buffers, strict=True):
            buffer.copy_(kept)
        if self.averaging is not None and self._average is not None:
            self.averaging.restart(self._average)
            return
        parameters: list[Tensor] = [p for p in self._model.parameters() if p.requires_grad]
        torch._foreach_copy_(parts(parameters), parts(self._parameters))
        rates = [group["lr"] for group in self.optimizer.param_groups]
        load_optimizer(self.optimizer, copied(self._optimizer_state))
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs."""
        return {
            "step": self.step,
            "parameters": self._parameters,
            "buffers": self._buffers,
            "average": self.averaging.gather_full(self._average) if self.averaging is not None else None,
            "optimizer": self._optimizer_state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.step = state["step"]
        trained = [p for p in self._model.parameters() if p.requires_grad]
        self._parameters = [shard_like(full, like) for full, like in zip(state["parameters"], trained, strict=False)]
        self._buffers = list(state["buffers"])
        self._average = self.averaging.shard_like(state["average"]) if self.averaging is not None else None
        self._optimizer_state = optimizer_state_like(self.optimizer, state["optimizer"])


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state as it was saved: torch casts counters and products to the dtype of the parameters, if not "step"."""
    optimizer.load_state_dict(state)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    for index, kept in state["state"].items():
        for name, value in kept.items():
            if isinstance(value, Tensor) and value.dim() == 0:
                optimizer.state[held[index]][name] = value.clone()


def copied(state: Any) -> Any:
    """A deep copy in which tensors are cloned and everything else is plain."""
    if isinstance(state, Tensor):
        return state.clone()
    if isinstance(state, dict):
        return {key: copied(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(copied(value) for value in state)
    return state
