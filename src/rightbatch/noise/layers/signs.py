"""Random signs for random projections, from a generator of their own."""

import random
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..gradient_norm import row_norms2

BLOCK_SIGNS = 1 << 20


class Signs:
    """A pool of independent ±1, handed out in contiguous windows that begin at random places.

    A window is a view and costs next to nothing; within one all signs are independent, two windows may overlap. The
    pool holds at least twice the largest window asked for. torch's own generators are neither read nor moved.

    Args:
        seed: of the signs and of the windows.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._random = random.Random(seed)
        self._size = BLOCK_SIGNS
        self._pools: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def draw(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Signs in the precision and on the device of `like`, to be read only.

        Returns:
            Shape as asked for.
        """
        count = 1
        for side in shape:
            count *= side
        while self._size < 2 * count:
            self._size *= 2
        pool = self._pools.get((like.dtype, like.device))
        if pool is None or len(pool) < self._size:
            pool = self._pools[like.dtype, like.device] = self._filled().to(like.device, like.dtype)
        start = int(self._random.random() * (self._size - count + 1))
        return pool[start : start + count].view(shape)

    def _filled(self) -> Tensor:
        """The pool at its present size; a larger one begins with the same signs."""
        bits = random.Random(f"{self._seed} pool").randbytes(self._size // 8)
        packed = torch.frombuffer(bytearray(bits), dtype=torch.uint8)
        places = torch.arange(8, dtype=torch.uint8)
        return (packed.unsqueeze(1).bitwise_right_shift(places) & 1).view(-1).to(torch.int8).mul_(2).sub_(1)

    def reseed(self, seed: str) -> None:
        """Begin the windows anew; the pool stays."""
        self._random.seed(seed)

    def state_dict(self) -> dict[str, Any]:
        """The seed, the size of the pool and where the windows have got to."""
        return {"seed": self._seed, "size": self._size, "random": self._random.getstate()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the windows where `state` was taken."""
        self._seed, self._size = state["seed"], state["size"]
        version, words, gauss = state["random"]
        self._random.setstate((version, tuple(words), gauss))
        self._pools.clear()


def projected_norms2(projections: Tensor, probes: int) -> Tensor:
    """Squared norms of the random projections of each sample, averaged over the probes.

    Args:
        projections: c_i e for every probe in turn, shape (b, ...).
        probes: k.

    Returns:
        Shape (b,).
    """
    return row_norms2(projections.flatten(1)).div_(probes)
