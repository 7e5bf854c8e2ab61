"""Holding out part of the data."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, InputError
from .arrays import TensorSource
from .order import NO_EPOCH, ROUNDS, STRATA, Indices, Order, encrypt, generator
from .source import Source, SourceWrapper, require_map_style
from .workers.source import WorkerSource


class SourceSubset(SourceWrapper):
    """Some samples of a source, on no list of indices."""

    @abstractmethod
    def whole(self, indices: Indices) -> Indices:
        """Return where the samples of this part are in the whole."""

    def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and y of the samples at `indices` of this part."""
        return self._source.fetch(torch.from_numpy(self.whole(indices.numpy())))

    def fetch_epoch(self, indices: Tensor, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        """Return x and y of the samples at `indices` of this part, as one epoch has them."""
        return self._source.fetch_epoch(torch.from_numpy(self.whole(indices.numpy())), seed, epoch)

    def prefetch(self, indices: Tensor) -> None:
        """Have the whole read ahead the blocks of it that come next."""
        self._source.prefetch(torch.from_numpy(self.whole(indices.numpy())))


class View(SourceSubset):
    """The samples of a source at an interval of an order.

    Args:
        source: the whole.
        order: over the whole.
        start: first position.
        stop: one past the last position.
    """

    def __init__(self, source: Source, order: Order, start: int, stop: int) -> None:
        super().__init__(source, f"a part of {len(source):,} samples")
        self._order, self._start, self._length = order, start, stop - start

    def __len__(self) -> int:
        return self._length

    def whole(self, indices: Indices) -> Indices:
        return self._order.at(NO_EPOCH, indices + self._start)


class StrataView(SourceSubset):
    """A part of a source on slow storage: of every few samples that follow each other one is held out, at random.

    The order on the disk is kept, so that neither part needs other blocks than it has samples in. Of n samples, held
    out are h: one, drawn at random, of the samples ⌊jn/h⌋, ..., ⌊(j + 1)n/h⌋ - 1 for each j < h.

    Args:
        source: the whole, with `block_ends`.
        held: samples held out, h.
        seed: keys the draws.
        train: whether this is the part that is left, not the one held out.
    """

    def __init__(self, source: Source, held: int, seed: int, train: bool) -> None:
        super().__init__(source, f"a part of {len(source):,} samples")
        ends = source.block_ends
        assert ends is not None
        self._n, self._held, self._train, self.window = len(source), held, train, source.window
        self._keys = generator(seed, NO_EPOCH).advance(STRATA).random_raw(ROUNDS)
        # Held out before an end: one of each stratum that is over, and that of the one it is in if it lies before.
        stratum = ((ends + 1) * held - 1) // self._n
        out = np.where(ends == self._n, held, stratum + (self._drawn(np.minimum(stratum, held - 1)) < ends))
        left = np.unique(ends - out if train else out)
        self.block_ends = left[left > 0]

    def __len__(self) -> int:
        return self._n - self._held if self._train else self._held

    def whole(self, indices: Indices) -> Indices:
        if not self._train:
            return self._drawn(indices)
        stratum = ((indices + 1) * self._held - 1) // (self._n - self._held)
        found = indices + stratum
        return found + (found >= self._drawn(stratum))

    def _drawn(self, strata: Indices) -> Indices:
        """The sample of each stratum that is held out."""
        begins, ends = strata * self._n // self._held, (strata + 1) * self._n // self._held
        words = encrypt(strata.astype(np.uint64), 2**32, 2**32, self._keys)
        return begins + (words % (ends - begins).astype(np.uint64)).view(np.int64)


def hold_out(source: Source, fraction: float, seed: int = 0) -> tuple[Source, Source]:
    """Divide a source at random into a part to train on and a part to validate on.

    Tensors in memory are copied; anything else is viewed. Of a source that is read in blocks, one of every few samples
    that follow each other is held out, so that both parts can be read in blocks.

    Args:
        source: at least two samples.
        fraction: of the samples to hold out, between 0 and 1; at least one sample stays on either side.
        seed: 0 to 2⁶⁴ - 1.

    Returns:
        (train, valid), disjoint and together the whole.

    Raises:
        InputError: fraction is not between 0 and 1.
        DataError: fewer than two samples.
    """
    if not 0 < fraction < 1:
        raise InputError(f"the fraction to hold out must lie between 0 and 1, got {fraction}")
    n = len(source)
    if n < 2:
        raise DataError(f"{n} samples cannot be divided: at least 2 are needed")
    require_map_style(source, "divided")
    held = min(n - 1, max(1, round(n * fraction)))
    if isinstance(source, WorkerSource):
        train, valid = source.parts(*hold_out(source.source, fraction, seed))
        return train, valid
    if source.block_ends is not None:
        if n * held >= 2**63:
            raise DataError(f"{held:,} of {n:,} samples cannot be held out here: give the validation data apart")
        if held > n / 2:  # the smaller part is the one that is drawn
            return StrataView(source, n - held, seed, False), StrataView(source, n - held, seed, True)
        return StrataView(source, held, seed, True), StrataView(source, held, seed, False)
    order = Order(n, seed)
    if isinstance(source, TensorSource):
        indices = torch.from_numpy(order.indices(NO_EPOCH, 0, n))
        return source.subset(indices[held:]), source.subset(indices[:held])
    return View(source, order, held, n), View(source, order, 0, held)
