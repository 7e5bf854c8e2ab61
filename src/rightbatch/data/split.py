"""Holding out part of the data."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import DataError, InputError
from .arrays import TensorSource
from .order import Order
from .source import Source

# An epoch no run reaches: the split never coincides with a training order of the same seed.
SPLIT_EPOCH = 2**64 - 1


class View(Source):
    """The examples of a source at an interval of an order: a subset that holds no list of indices.

    Args:
        source: the whole.
        order: over the whole.
        start: first position.
        stop: one past the last position.
    """

    def __init__(self, source: Source, order: Order, start: int, stop: int) -> None:
        self._source, self._order, self._start, self._length = source, order, start, stop - start
        self.x_shape, self.x_dtype, self.y_shape = source.x_shape, source.x_dtype, source.y_shape
        self.y_dtype, self.y_range = source.y_dtype, source.y_range
        self.notes = (*source.notes, f"a part of {len(source):,} examples")

    def __len__(self) -> int:
        return self._length

    def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and y of the examples at `indices` of this subset."""
        whole = self._order.at(SPLIT_EPOCH, indices.numpy() + self._start)
        return self._source.fetch(torch.from_numpy(whole))


def hold_out(source: Source, fraction: float, seed: int = 0) -> tuple[Source, Source]:
    """Divide a source at random into a part to train on and a part to validate on.

    Tensors in memory are copied; anything else is viewed.

    Args:
        source: at least two examples.
        fraction: of the examples to hold out, between 0 and 1; at least one example stays on either side.
        seed: 0 to 2⁶⁴ - 1.

    Returns:
        (train, valid), disjoint and together the whole.

    Raises:
        InputError: fraction is not between 0 and 1.
        DataError: fewer than two examples.
    """
    if not 0 < fraction < 1:
        raise InputError(f"the fraction to hold out must lie between 0 and 1, got {fraction}")
    n = len(source)
    if n < 2:
        raise DataError(f"{n} examples cannot be divided: at least 2 are needed")
    held = min(n - 1, max(1, round(n * fraction)))
    order = Order(n, seed)
    if isinstance(source, TensorSource):
        indices = torch.from_numpy(order.indices(SPLIT_EPOCH, 0, n))
        return source.subset(indices[held:]), source.subset(indices[:held])
    return View(source, order, held, n), View(source, order, 0, held)
