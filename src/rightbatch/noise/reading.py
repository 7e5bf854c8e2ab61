"""How one layer's use in a pass becomes numbers of its examples: exactly, or of a few of them."""

import random
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..evidence import LayerReading
from .uses import Use


class Reading:
    """Asks every use for the exact ‖c_i‖² of all its examples."""

    name = "per-example"
    description = "exact per-example norms, taken during the backward pass"

    def __init__(self) -> None:
        self._layers: dict[str, LayerReading] = {}

    def begin(self, examples: int, device: torch.device) -> Tensor | None:
        """Get ready for a micro-batch; answers the rows that will be read of it, None for all."""
        return None

    def norms2(self, path: str, use: Use) -> Tensor:
        """‖c_i‖² of one use or an unbiased estimate of it, shape (b,), or (m,) where m rows are read."""
        self._note(path, use, "exact", "")
        return use.norms2()

    @property
    def layers(self) -> tuple[LayerReading, ...]:
        """How each layer was last read."""
        return tuple(self._layers.values())

    def state_dict(self) -> dict[str, Any]:
        """Where its random choices have got to."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on choosing from `state`."""

    def _note(self, path: str, use: Use, method: str, reason: str) -> None:
        if path not in self._layers or self._layers[path].method != method:
            self._layers[path] = LayerReading(path, use.kind, method, reason)


class Subset(Reading):
    """Asks for the exact ‖c_i‖² of a few examples of each micro-batch, drawn at random without replacement.

    Args:
        examples: how many, of each micro-batch; all of a smaller one.
        seed: of a generator of its own.
    """

    name = "subset"
    description = "exact norms of a few examples drawn at random, taken during the backward pass"

    def __init__(self, examples: int = 32, seed: int = 0) -> None:
        if examples < 2:
            raise InputError(f"a subset of {examples} was asked for; its variance needs at least 2 examples")
        super().__init__()
        self._examples = examples
        self._random = random.Random(seed)
        self._rows = torch.empty(0)

    def begin(self, examples: int, device: torch.device) -> Tensor | None:
        count = min(self._examples, examples)
        self._rows = torch.tensor(sorted(self._random.sample(range(examples), count)), device=device)
        return self._rows

    def norms2(self, path: str, use: Use) -> Tensor:
        self._note(path, use, "exact, of some examples", f"{len(self._rows)} examples drawn at random")
        return use.at(self._rows).norms2()

    def state_dict(self) -> dict[str, Any]:
        return {"random": self._random.getstate()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        version, words, gauss = state["random"]
        self._random.setstate((version, tuple(words), gauss))
