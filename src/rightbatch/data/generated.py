"""Samples made on demand: rollouts, random crops, simulated data."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError
from ..ranges import require_whole
from .block_order import BlockOrder
from .nest import rows_of, tensors
from .order import NO_EPOCH, Order, mixed_seed
from .source import Source

Generate = Callable[[int, torch.Generator], Any]


class GeneratedSource(Source):
    """Batches from a function; created by `from_generator`.

    Args:
        generate: (number of samples, generator) to a batch.
        length: number of samples in an epoch.
    """

    sequential = True

    def __init__(self, generate: Generate, length: int) -> None:
        self._generate, self._length = generate, length
        self._held: OrderedDict[tuple[int, int, int], Any] = OrderedDict()  # batches by epoch, start and stop
        self.equal = False
        self.describe_as(self._made(2, 0, NO_EPOCH, 0))
        self.notes = ("made on demand",)

    def __len__(self) -> int:
        return self._length

    def order(self, seed: int = 0, shuffle: bool = True) -> Order:
        """Return the positions in order."""
        return Order(len(self), seed, False)

    def fetch(self, indices: Tensor) -> Any:
        """Return new samples, as many as there are indices, for statistics."""
        return self._made(len(indices), 0, NO_EPOCH, 0)

    def fetch_interval(self, order: Order | BlockOrder, epoch: int, start: int, stop: int) -> Any:
        """Return the samples at positions of an epoch, which are made once and held until they are discarded."""
        place = epoch, start, stop
        if place not in self._held:
            self._held[place] = self._made(stop - start, order.seed, epoch, start)
        return self._held[place]

    def discard_before(self, epoch: int, position: int) -> None:
        """Free the samples before this position."""
        for place in [place for place in self._held if (place[0], place[2]) <= (epoch, position)]:
            del self._held[place]

    def rewind(self) -> None:
        """Return to the first position."""
        self._held.clear()

    def _made(self, samples: int, seed: int, epoch: int, start: int) -> Any:
        generator = torch.Generator().manual_seed(mixed_seed(mixed_seed(seed, epoch), start) >> 1)
        batch = self._generate(samples, generator)
        if not tensors(batch):
            raise DataError(f"the function returned a {type(batch).__name__} without tensors: it must return a batch")
        try:
            rows = rows_of(batch)
        except DataError:
            return batch  # such as a graph, or tensors of other dimensions
        if rows != samples:
            raise DataError(f"the function returned {rows:,} samples, {samples:,} were requested")
        return batch


def from_generator(generate: Generate, length: int = 2**16) -> GeneratedSource:
    """Train on samples that a function makes on demand, such as rollouts, random crops or simulated data.

        def batch(n, generator):
            x = torch.rand(n, 2, generator=generator)
            return x, x.prod(1)

        auto = rightbatch.AutoBatch(model, optimizer, rightbatch.data.from_generator(batch))

    The promises are weaker than those of data sets. A step that needs its samples again has the same ones, which are
    held until it is complete. The generator is seeded by the seed and the position of a micro-batch: a resumed run
    sees the same samples if the function depends on its arguments alone and batches are cut alike, and other batch
    sizes or numbers of processes see other samples. An epoch is `length` samples, of which none ever returns. These
    data cannot be split, probed or evaluated on.

    Args:
        generate: function of a number of samples and a torch.Generator to a batch of so many, any nest of tensors.
        length: number of samples after which an epoch ends.

    Raises:
        DataError: the function returns no tensors, or another number of samples.
        InputError: length is not a whole number of at least 2.
    """
    require_whole("length", length, least=2)
    return GeneratedSource(generate, length)
