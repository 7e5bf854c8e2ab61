"""Averages beside the iterate: two running means of the last part of a run, of which the better one may be shipped."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..noise.gradient_norm import is_part
from .distributed.sharding import gather_full, shard_like
from .gradients import Gradients

POWERS = {"long": 3.0, "short": 10.0}  # the means reach back over about a quarter and a tenth of all steps
EVERY_SHARE = 0.005  # of the steps so far, between two that are averaged: a mean over hundreds loses nothing
MOST_EVERY_STEPS = 8


class IterateAverages:
    """Means of the iterates x_k, and of the model's buffers, with weights that grow like k^γ, γ = 3 and 10.

        a ← a + (γ + 1)/(k + γ) · (x_k - a)

    Later in a run, when iterates change slowly, every second to eighth is taken in. Means are in float32 at least.

    Args:
        model: whose buffers are averaged.
        gradients: knows the trainable parameters.

    Reference: polynomial-decay averaging, O. Shamir and T. Zhang, "Stochastic gradient descent for non-smooth
    optimization", 2013.
    """

    def __init__(self, model: nn.Module, gradients: Gradients) -> None:
        self._model = model
        self._gradients = gradients
        self._steps = self._taken = 0
        self._means: dict[str, list[Tensor]] = {}
        self._showing = False
        self._versions: list[int] = []  # of the parameters after the last step

    def _now(self) -> list[int]:
        return [p._version for p in self._gradients.parameters]

    def begin_step(self) -> None:
        """A step is taken: where the program has set weights since the last one, average from here on."""
        if self._steps and self._versions != self._now():
            self.restart()

    @property
    def names(self) -> tuple[str, ...]:
        """Of the averages there are."""
        return tuple(self._means) if self._taken else ()

    def _whole(self) -> list[Tensor]:
        """Parameters and buffers; those of a sharded model are spread over the processes."""
        buffers = [b for b in self._model.buffers() if b.is_floating_point()]
        return [*(p.detach() for p in self._gradients.parameters), *buffers]

    def _present(self) -> list[Tensor]:
        return _held(self._whole())

    @torch.no_grad()
    def restart(self) -> None:
        """Average from here on."""
        self._steps = self._taken = 0
        self._means = {name: [_wide(t).clone() for t in self._whole()] for name in POWERS}

    @torch.no_grad()
    def update(self) -> None:
        """A step was taken."""
        if not self._means:
            return
        self._steps += 1
        self._versions = self._now()
        if self._steps % min(MOST_EVERY_STEPS, 1 + int(EVERY_SHARE * self._steps)):
            return
        self._taken += 1
        present = [_wide(t) for t in self._present()]
        for name, power in POWERS.items():
            torch._foreach_lerp_(_held(self._means[name]), present, min(1.0, (power + 1) / (self._taken + power)))

    @contextmanager
    def shown(self, name: str) -> Iterator[None]:
        """Within, the model holds the average of that name; as it is where there is none yet."""
        if self._showing or name not in self.names:
            yield
            return
        present = self._present()
        with torch.no_grad():
            raw = [t.clone() for t in present]
        same = self._versions == self._now()
        self.put(name)
        self._showing = True
        try:
            yield
        finally:
            self._showing = False
            with torch.no_grad():
                torch._foreach_copy_(present, raw)
            if same:
                self._versions = self._now()

    @torch.no_grad()
    def put(self, name: str) -> None:
        """Put the average of that name into the model for good."""
        if name in self.names:
            torch._foreach_copy_(self._present(), _held(self._means[name]))

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs."""
        return {"steps": self._steps, "taken": self._taken, "means": gather_full(self._means)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`."""
        self._steps, self._taken = state["steps"], state["taken"]
        own = self._whole()
        self._means = {
            name: [shard_like(full.to(like.device), like).clone() for full, like in zip(mean, own, strict=True)]
            for name, mean in state["means"].items()
        }
        self._versions = self._now()


def _held(tensors: list[Tensor]) -> list[Tensor]:
    """What this process holds of each."""
    return [t.to_local() if is_part(t) else t for t in tensors]  # type: ignore[attr-defined]


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
