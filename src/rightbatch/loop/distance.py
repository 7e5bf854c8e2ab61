"""How far the parameters have come from where they started."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .distributed.sharding import gather_full, parts, shard_like, squared_norm


class Distance:
    """‖x - x0‖ over all trainable parameters; keeps one copy of x0.

    Args:
        parameters: as they stand at the start.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._parameters = list(parameters)
        self._start = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def measure(self) -> float:
        """‖x - x0‖ now."""
        return math.sqrt(squared_norm(torch._foreach_sub(self._parameters, self._start)))

    def refresh(self, parameters: Sequence[Tensor]) -> None:
        """Other parameters are trained: new ones start where they are now."""
        starts = dict(zip(self._parameters, self._start, strict=True))
        self._parameters = list(parameters)
        self._start = [starts.get(p, p.detach().clone()) for p in parameters]

    def state_dict(self) -> dict[str, Any]:
        """The start."""
        return {"start": gather_full(self._start)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Count from the start in `state`."""
        start = [shard_like(full, like) for full, like in zip(state["start"], self._start, strict=True)]
        torch._foreach_copy_(parts(self._start), parts(start))
