"""Samples of unequal lengths: ordered by length, and passes limited by their padded size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, InputError
from .block_order import BlockOrder
from .drawn import DrawnSource
from .order import LENGTHS, Indices, Order, generator, require_positions
from .source import Source, SourceWrapper

WINDOW_SAMPLES = 2048
RUN_SAMPLES = 64
READ_SAMPLES = 1024
NOTHING: tuple[int, int, Indices] = (-1, -1, np.empty(0, np.int64))


@dataclass(frozen=True, slots=True, eq=False)
class LengthOrder(Order):
    """An order in which samples of similar length are neighbours; every epoch visits each exactly once.

    The samples of 2,048 consecutive positions of the plain order are sorted by length, and runs of 64 of them are
    shuffled: a batch of up to 64 has similar lengths, and consecutive batches differ.

    Args:
        lengths: (n,), of each sample.
    """

    lengths: Indices = field(default_factory=lambda: np.empty(0, np.int64), repr=False)
    _window: tuple[int, int, Indices] = field(default=NOTHING, init=False, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return _length_order, (self.n, self.seed, self.permute_below, self.lengths)

    @property
    def mixing(self) -> str:
        """How samples are shuffled."""
        return f"{Order(self.n, self.seed, True, self.permute_below).mixing}, by length"

    def view(self, epoch: int, start: int, stop: int) -> Indices:
        """Return the samples at positions start, ..., stop - 1 of an epoch."""
        require_positions(epoch, start, stop, self.n)
        found = [np.empty(0, np.int64)]
        for number in range(start // WINDOW_SAMPLES, -(-stop // WINDOW_SAMPLES)):
            begin = number * WINDOW_SAMPLES
            found.append(self._sorted(epoch, number)[max(0, start - begin) : stop - begin])
        return np.concatenate(found)

    def at(self, epoch: int, positions: Indices) -> Indices:
        """Return the samples at arbitrary positions of an epoch."""
        found = [self.view(epoch, position, position + 1) for position in positions.ravel().tolist()]
        return np.concatenate([np.empty(0, np.int64), *found]).reshape(positions.shape)

    def _sorted(self, epoch: int, number: int) -> Indices:
        if self._window[:2] != (epoch, number):
            begin = number * WINDOW_SAMPLES
            plain = Order.view(self, epoch, begin, min(begin + WINDOW_SAMPLES, self.n))
            rows = plain[np.argsort(self.lengths[plain], kind="stable")]
            runs = [rows[i : i + RUN_SAMPLES] for i in range(0, len(rows), RUN_SAMPLES)]
            words = generator(self.seed, epoch).advance(LENGTHS + number * 2**64).random_raw(len(runs))
            mixed = np.concatenate([runs[k] for k in np.argsort(words, kind="stable")])
            object.__setattr__(self, "_window", (epoch, number, mixed))
        return self._window[2]


def _length_order(n: int, seed: int, permute_below: int, lengths: Indices) -> LengthOrder:
    return LengthOrder(n, seed, True, permute_below, lengths=lengths)


class LengthSource(SourceWrapper):
    """A source that knows the lengths of its samples.

    Args:
        source: the samples.
        lengths: (n,), of each: tokens, frames.
        group: whether samples of similar length are neighbours in the order.
        max_tokens: largest padded size of a forward pass, its samples times the longest of them.
    """

    def __init__(self, source: Source, lengths: Indices, group: bool, max_tokens: int | None) -> None:
        super().__init__(
            source, f"{'ordered by length' if group else 'of known lengths'}, {lengths.mean():.4g} on average"
        )
        self._lengths, self._group, self._max_tokens = lengths, group, max_tokens
        self.dataset = source.dataset

    def __len__(self) -> int:
        return len(self._source)

    def fetch(self, indices: Tensor) -> Any:
        """Return the samples at `indices`."""
        return self._source.fetch(indices)

    def fetch_epoch(self, indices: Tensor, seed: int, epoch: int) -> Any:
        """Return the samples at `indices`, for one epoch."""
        return self._source.fetch_epoch(indices, seed, epoch)

    def fetch_interval(self, order: Order | BlockOrder, epoch: int, start: int, stop: int) -> Any:
        """Return the samples at positions of an epoch."""
        return self._source.fetch_interval(order, epoch, start, stop)

    def order(self, seed: int = 0, shuffle: bool = True) -> Order | BlockOrder:
        """Return the order of the source, grouped by length if wanted."""
        plain = self._source.order(seed, shuffle)
        if not self._group or not isinstance(plain, Order) or not plain.shuffle:
            return plain
        return LengthOrder(plain.n, plain.seed, True, plain.permute_below, lengths=self._lengths)

    @property
    def limits_passes(self) -> bool:
        """Whether the padded size of a pass is limited."""
        return self._max_tokens is not None

    def passes(
        self, order: Order | BlockOrder, place: tuple[int, int, int], sizes: list[int], processes: int
    ) -> list[int]:
        """Return the sizes of passes over an interval, each of at most `max_tokens`."""
        if self._max_tokens is None:
            return sizes
        rows = order.indices(*place)
        if isinstance(self._source, DrawnSource):
            rows = self._source.rows(order.seed, place[0])[rows]
        return cut_by_tokens(self._lengths[rows], sizes, self._max_tokens, processes)

    def subset(self, rows: Indices, select: Callable[[Source, Indices], Source]) -> LengthSource:
        """Return a source with only these rows."""
        return LengthSource(select(self._source, rows), self._lengths[rows], self._group, self._max_tokens)


def with_lengths(
    source: Source, lengths: object, group_by_length: bool = False, max_tokens: int | None = None
) -> LengthSource:
    """Order samples by length, and limit the padded size of forward passes.

    Args:
        source: the samples, with random access.
        lengths: one number per sample, or a function from a sample to it, which reads all samples once.
        group_by_length: whether samples of similar length are neighbours in the order.
        max_tokens: see `LengthSource`; at least the length of the longest sample.

    Raises:
        InputError: lengths or max_tokens cannot be used.
        DataError: the source is a stream, read in blocks, or drawn by a sampler that has an order of its own.
    """
    if source.sequential or source.block_ends is not None:
        raise DataError("group_by_length and max_tokens need samples with random access: pass a map-style data set")
    drawn = isinstance(source, DrawnSource)
    if drawn and group_by_length:
        raise DataError("a sampler decides the order of these samples: leave out group_by_length, or the sampler")
    rows = len(source.source) if isinstance(source, DrawnSource) else len(source)
    if lengths is None:
        raise InputError(
            "group_by_length and max_tokens need lengths=, one number per sample or a function of a sample"
        )
    whole = source.source if isinstance(source, DrawnSource) else source
    values = np.asarray(_measured(whole, lengths) if callable(lengths) else lengths)
    if values.shape != (rows,) or values.dtype.kind not in "iu" or values.min() < 0:
        raise InputError(
            f"lengths must be {rows:,} whole numbers of at least 0, one per sample; got shape {values.shape} of type "
            f"{values.dtype}"
        )
    values = values.astype(np.int64)
    if max_tokens is not None and (isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1):
        raise InputError(f"max_tokens must be a whole number of at least 1, got {max_tokens!r}")
    if max_tokens is not None and max_tokens < values.max():
        raise InputError(
            f"max_tokens is {max_tokens}, but sample {int(values.argmax())} has length {int(values.max())}: raise it, "
            "or truncate the samples"
        )
    return LengthSource(source, values, group_by_length, max_tokens)


def _measured(source: Source, length: Callable[[Any], Any]) -> list[int]:
    found: list[int] = []
    for start in range(0, len(source), READ_SAMPLES):
        rows = torch.arange(start, min(start + READ_SAMPLES, len(source)))
        found += [int(length(item)) for item in source.items(rows, 0, 0)]
    return found


def cut_by_tokens(lengths: Indices, sizes: list[int], max_tokens: int, processes: int = 1) -> list[int]:
    """Cut pieces further so that the padded size of each is at most `max_tokens` in each process.

    Args:
        lengths: of the samples, in order.
        sizes: of the pieces, which add up to the number of samples.
        max_tokens: largest number of rows times the longest of them.
        processes: among which the rows of a piece are divided.
    """
    found, start = [], 0
    for size in sizes:
        rows = longest = 0
        for length in lengths[start : start + size].tolist():
            longer = max(longest, length)
            if rows and -(-(rows + 1) // processes) * longer > max_tokens:
                found.append(rows)
                rows, longer = 0, length
            rows, longest = rows + 1, longer
        found.append(rows)
        start += size
    return found
