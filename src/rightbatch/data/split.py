"""Splits of the data."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, InputError
from .arrays import TensorSource
from .drawn import DrawnSource
from .lengths import LengthSource
from .nest_source import NestSource
from .order import NO_EPOCH, ROUNDS, STRATA, Indices, Order, encrypt, generator
from .prepared import PreparedSource
from .source import Source, SourceWrapper, require_map_style
from .workers.source import WorkerSource


class SourceSubset(SourceWrapper):
    """A part of a source, without a list of indices."""

    @abstractmethod
    def whole(self, indices: Indices) -> Indices:
        """Return the indices of this part's samples in the whole source."""

    def fetch(self, indices: Tensor) -> Any:
        """Return the samples at `indices` of this part."""
        return self._source.fetch(torch.from_numpy(self.whole(indices.numpy())))

    def fetch_epoch(self, indices: Tensor, seed: int, epoch: int) -> Any:
        """Return the samples at `indices` of this part, for one epoch."""
        return self._source.fetch_epoch(torch.from_numpy(self.whole(indices.numpy())), seed, epoch)

    def items(self, indices: Tensor, seed: int, epoch: int) -> list[Any]:
        """Return the samples at `indices` of this part, before they are collated."""
        return self._source.items(torch.from_numpy(self.whole(indices.numpy())), seed, epoch)

    def prefetch(self, indices: Tensor) -> None:
        """Forward the prefetch to the whole source."""
        self._source.prefetch(torch.from_numpy(self.whole(indices.numpy())))


class View(SourceSubset):
    """The samples of a source at an interval of an order.

    Args:
        source: the whole source.
        order: an order of all its samples.
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


class Selection(SourceSubset):
    """The samples of a source at given indices.

    Args:
        source: the whole source.
        rows: int64 indices.
    """

    def __init__(self, source: Source, rows: Indices) -> None:
        super().__init__(source, f"a part of {len(source):,} samples")
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def whole(self, indices: Indices) -> Indices:
        return self._rows[indices]


class StrataView(SourceSubset):
    """A part of a source on slow storage, from which one random sample of every few consecutive ones is held out.

    The order on disk is preserved, so that each part reads only blocks that contain its samples. Of n samples, h are
    held out: a random one of the samples ⌊jn/h⌋, ..., ⌊(j + 1)n/h⌋ - 1 for each j < h.

    Args:
        source: the whole source, with `block_ends`.
        held: number of samples held out, h.
        seed: seed of the draws.
        train: True for the remaining part, False for the part held out.
    """

    def __init__(self, source: Source, held: int, seed: int, train: bool) -> None:
        super().__init__(source, f"a part of {len(source):,} samples")
        ends = source.block_ends
        assert ends is not None
        self._n, self._held, self._train, self.window = len(source), held, train, source.window
        self._keys = generator(seed, NO_EPOCH).advance(STRATA).random_raw(ROUNDS)
        # Held out before an end: one per finished stratum, and that of the current stratum if it lies before the end.
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
        """The held-out sample of each stratum."""
        begins, ends = strata * self._n // self._held, (strata + 1) * self._n // self._held
        words = encrypt(strata.astype(np.uint64), 2**32, 2**32, self._keys)
        return begins + (words % (ends - begins).astype(np.uint64)).view(np.int64)


def select(source: Source, rows: Indices) -> Source:
    """Return a source with only some rows, in this order; tensors in memory are copied.

    Args:
        source: any source with random access.
        rows: indices; negative ones count from the end.

    Raises:
        DataError: a row that is not there.
    """
    n = len(source)
    if len(rows) and not -n <= rows.min() <= rows.max() < n:
        raise DataError(f"rows {rows.min()} to {rows.max()} are selected: there are {n:,} samples")
    rows = np.where(rows < 0, rows + n, rows)
    if isinstance(source, TensorSource | NestSource):
        return source.subset(torch.from_numpy(rows))
    if isinstance(source, LengthSource):
        return source.subset(rows, select)
    if isinstance(source, WorkerSource):
        return source.parts(Selection(source.source, rows))[0]
    return Selection(source, rows)


def hold_out(source: Source, fraction: float, seed: int = 0) -> tuple[Source, Source]:
    """Split a source at random into a training part and a validation part.

    Tensors in memory are copied; other sources are viewed. If a source is read in blocks, one of every few consecutive
    samples is held out, so that both parts can be read in blocks. The parts of a source that is not shuffled are in its
    order.

    Args:
        source: at least two samples.
        fraction: fraction of the samples to hold out, between 0 and 1; each part has at least one sample.
        seed: 0 to 2⁶⁴ - 1.

    Returns:
        (train, valid), which are disjoint and complete.

    Raises:
        InputError: fraction is not between 0 and 1.
        DataError: fewer than two samples.
    """
    if not 0 < fraction < 1:
        raise InputError(f"the fraction to hold out must be between 0 and 1, got {fraction}")
    if len(source) < 2:
        raise DataError(f"{len(source)} samples cannot be split: provide at least 2")
    require_map_style(source, "split")
    train, valid = _parts(source, fraction, seed, source.shuffle)
    for part in (train, valid):
        part.follow(source)
    return train, valid


def _parts(source: Source, fraction: float, seed: int, shuffle: bool) -> tuple[Source, Source]:
    """The two parts, each in the order of the source if that is not shuffled."""
    n = len(source)
    held = min(n - 1, max(1, round(n * fraction)))
    if isinstance(source, DrawnSource):  # by rows, of which draws may contain several copies
        rows = Order(len(source.source), seed).indices(NO_EPOCH, 0, len(source.source))
        held = min(len(rows) - 1, max(1, round(len(rows) * fraction)))
        valid, train = (select(source.source, part) for part in (rows[:held], rows[held:]))
        return DrawnSource(train, source.draws.restricted(rows[held:])), valid
    if isinstance(source, PreparedSource):
        return source.parts(*_parts(source.raw, fraction, seed, shuffle))
    if isinstance(source, WorkerSource):
        train, valid = source.parts(*_parts(source.source, fraction, seed, shuffle))
        return train, valid
    if source.block_ends is not None:
        if n * held >= 2**63:
            raise DataError(f"cannot hold out {held:,} of {n:,} samples: pass separate validation data")
        if held > n / 2:  # the smaller part is drawn
            return StrataView(source, n - held, seed, False), StrataView(source, n - held, seed, True)
        return StrataView(source, held, seed, True), StrataView(source, held, seed, False)
    order = Order(n, seed)
    if shuffle and not isinstance(source, TensorSource | NestSource | LengthSource):
        return View(source, order, held, n), View(source, order, 0, held)
    rows = order.indices(NO_EPOCH, 0, n)
    if not shuffle:
        rows = np.concatenate((np.sort(rows[:held]), np.sort(rows[held:])))
    return select(source, rows[held:]), select(source, rows[:held])
