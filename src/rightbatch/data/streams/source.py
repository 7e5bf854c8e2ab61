"""Sequential samples: `IterableDataset`s, generators, loaders."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ...errors import DataError, InputError
from ...ranges import require_whole
from ..arrays import TensorSource, require_finite
from ..block_order import BlockOrder
from ..collating import Collate, CollateFunction, Collation
from ..map_style import DatasetSource
from ..nest import (
    aligned,
    concatenate,
    copied,
    describe_form,
    form_of,
    is_container,
    leaves,
    map_leaves,
    named_leaves,
    rows_of,
    take,
    tensors,
)
from ..nest_source import NestSource
from ..order import Order
from ..source import Source
from .items import StreamItems
from .passes import Passes

SAMPLE = 2**12
SAMPLE_BYTES = 2**26
READ_AT_ONCE = 2**12
ADVICE = (
    "a stream only supports sequential access. Write it with "
    "rightbatch.data.write_shards(samples, folder) and pass the folder"
)


class _Chunk(NamedTuple):
    """Samples start, ..., stop - 1 of the stream, and the items of the pass read before them, -1 if unknown."""

    start: int
    stop: int
    rows: Any  # a nest; with a collate function a list of items
    passes: int
    items: int


class IterableSource(Source):
    """A stream of samples in its own order; created by `as_stream`.

    The samples of a batch are stored until its step is complete, since trial steps, measurements and retries after
    out-of-memory errors read them again; so are the first ones, `sample`.

    Args:
        items: the items of the stream.
        length: number of samples in an epoch.
        collate: function from a list of items to a batch; None stacks items of equal shapes.

    Raises:
        DataError: there are no items, or they cannot be collated.
    """

    sequential = True

    def __init__(self, items: StreamItems, length: int, collate: Collate | None = None) -> None:
        self._items, self._length = items, length
        self._passes = Passes(items.samples, items.name)
        self._chunks: deque[_Chunk] = deque()
        self._begin = self._end = 0  # the stored range, counted from the very first sample
        self._sample: list[Any] = []
        self._sampled = 0
        self._first: Any = None  # one sample, which later ones are compared with
        self._way: Callable[[Any], Any] | None = None
        (first,) = self._passes.take(1)
        item = items.sample(first)
        self._collate = Collation(items.name, item) if collate is None else CollateFunction(items.name, collate)
        self.equal = collate is None
        rows = self._rows_from([item])
        batch = rows if collate is None else self._collate([copied(item)])
        found = tensors(batch)
        if not found:
            raise DataError(f"item 0 of {items.name} contains no tensor: {describe_form(batch)}")
        self.describe_as(batch)
        self.notes = (f"{items.name}, in its own order",)
        each = sum(tensor.nbytes for tensor in found) // max(1, len(found[0])) if found[0].dim() else 1
        self._most_sampled = max(2, min(SAMPLE, SAMPLE_BYTES // max(1, each)))
        self._take_in(rows, 0)
        (second,) = self._passes.take(1)
        self._take_in(self._rows_from([items.sample(second)]), self._passes.handed_out - 1)
        self._way = items.way(first, second)

    def __len__(self) -> int:
        return self._length

    def fetch(self, indices: Tensor) -> Any:
        """Return samples of `sample` by index; no others have random access.

        Raises:
            InputError: another sample is requested.
        """
        sample = self.sample()
        if len(indices) and int(indices.max()) >= len(sample):
            raise InputError(f"cannot fetch sample {int(indices.max()):,} by index: {ADVICE}")
        return sample.fetch(indices)

    def order(self, seed: int = 0, shuffle: bool = True) -> Order:
        """Return the order of the stream, which is never shuffled."""
        return Order(len(self), seed, False)

    def fetch_interval(self, order: Order | BlockOrder, epoch: int, start: int, stop: int) -> Any:
        """Return the samples at positions start, ..., stop - 1 of an epoch that have not been discarded.

        Raises:
            InputError: the samples have been discarded.
            DataError: the stream ends or changes; its own exceptions are passed on.
        """
        before = epoch * self._length
        rows = self._rows(before + start, before + stop)
        return rows if self.equal else self._collate(rows)

    def sample(self) -> Source:
        """The first discarded samples, at least two, at most 4,096 or 64 MiB.

        They depend only on the position, not on how far this process has read ahead.
        """
        count = min(self._most_sampled, max(2, self._begin))
        self._reach(count)
        if not self.equal:
            return DatasetSource([item for rows in self._sample for item in rows][:count], self._collate)
        sample = take(concatenate(self._sample), slice(0, count))
        return TensorSource(sample[0], sample[1], self.notes) if self.pair else NestSource(sample, self.notes)

    def first_samples(self) -> Any:
        """Return the first two samples: each process reads the whole stream."""
        return self.fetch(torch.arange(2))

    def rewind(self) -> None:
        """Return to the first sample.

        Raises:
            InputError: samples of an iterator have been discarded.
        """
        if self._begin:
            self._passes.seek(0, 0)
            self._chunks, self._begin, self._end = deque(), 0, 0

    def discard_before(self, epoch: int, position: int) -> None:
        """Free the samples before this position; they are not fetched again."""
        self._begin = max(self._begin, epoch * self._length + position)
        while self._chunks and self._chunks[0].stop <= self._begin:
            self._chunks.popleft()

    def state_dict(self, epoch: int, position: int) -> dict[str, Any]:
        """Return the state for a position that has not been discarded, as plain values.

        If the stream has its own state, the result contains it, and the samples read beyond the position.
        """
        place = epoch * self._length + position
        self._reach(place)
        own = self._passes.own_state()
        held = next((chunk for chunk in self._chunks if chunk.stop > place), None)
        if own is None and held is not None and held.items >= 0:
            # The position may be inside a batch.
            start, items = (held.start, held.items) if self._items.batched else (place, held.items + place - held.start)
            return {"start": start, "pass": held.passes, "items": items, "own": None}
        state = {"start": place, "pass": self._passes.number, "items": self._passes.handed_out, "own": own}
        if held is not None:
            rows = self._rows(place, self._end)
            state["rows"] = list(leaves(rows)) if self.equal else [self._saved(item) for item in rows]
        return state

    def load_state_dict(self, state: dict[str, Any], epoch: int, position: int) -> None:
        """Return to a saved position.

        Raises:
            InputError: an iterator is past it, or the stream has become shorter.
        """
        place = epoch * self._length + position
        self._reach(min(place, self._most_sampled))  # the sample is not saved
        if state["own"] is not None or not self._begin <= place <= self._end:
            self._passes.seek(state["pass"], state["items"], state["own"])
            self._chunks, self._begin, self._end = deque(), place, state["start"]
            if "rows" in state:
                self._take_in(self._restored(state["rows"]), -1)
        self.discard_before(epoch, position)

    def _rows(self, start: int, stop: int) -> Any:
        if start < self._begin:
            raise InputError(f"sample {start:,} has been discarded, the stream is at {self._begin:,}: {ADVICE}")
        self._reach(stop)
        parts = [chunk for chunk in self._chunks if chunk.start < stop and chunk.stop > start]
        cuts = [slice(max(0, start - chunk.start), stop - chunk.start) for chunk in parts]
        if not self.equal:
            return [item for chunk, cut in zip(parts, cuts, strict=True) for item in map(copied, chunk.rows[cut])]
        return concatenate([take(chunk.rows, cut) for chunk, cut in zip(parts, cuts, strict=True)])  # a copy

    def _reach(self, stop: int) -> None:
        """Read until `stop` samples have been read in total."""
        while self._end < stop:
            most = 1 if self._items.batched else min(stop - self._end, READ_AT_ONCE)
            items = self._passes.take(most, self._way)
            self._take_in(self._rows_from(items), self._passes.handed_out - len(items))

    def _take_in(self, rows: Any, before: int) -> None:
        """Store samples; `before` is the number of items of the current pass read before them."""
        count = len(rows) if not self.equal else rows_of(rows)
        start, self._end = self._end, self._end + count
        self._chunks.append(_Chunk(start, self._end, rows, self._passes.number, before))
        if start <= self._sampled < min(self._end, self._most_sampled):
            cut = slice(self._sampled - start, self._most_sampled - start)
            part = rows[cut] if not self.equal else concatenate([take(rows, cut)])
            for name, leaf in zip("xy", part, strict=True) if self.pair else named_leaves(part):
                if isinstance(leaf, Tensor):
                    require_finite(
                        leaf, name or "a tensor", f" of {self._items.name}, from sample {self._sampled:,} on,"
                    )
            self._sample.append(part)
            self._sampled += len(part) if not self.equal else rows_of(part)

    def _rows_from(self, items: list[Any]) -> Any:
        """Samples of items as they are stored."""
        if not self.equal:
            self._first = items[0] if self._first is None else self._first
            return items
        rows = self._collate(items)
        if self._items.batched:
            rows = map_leaves(lambda leaf: leaf[0], rows)  # of a batch of one batch
            if not tensors(rows) or any(leaf.dim() == 0 for leaf in tensors(rows)) or not _rows_alike(rows):
                raise DataError(
                    f"{self._items.name} returned {self._described(rows, 0)}, which is not a batch: all tensors must "
                    "have the same number of rows"
                )
        if self._first is None:
            self._first = take(rows, slice(0, 1))
        if form_of(rows) != form_of(self._first):
            found, first = self._described(take(rows, slice(0, 1))), self._described(self._first)
            advice = ": make an iterable of single samples and pass collate=" if self._items.batched else ""
            raise DataError(
                f"sample {self._end:,} of {self._items.name} has {found}; the first sample has {first}{advice}"
            )
        return aligned(rows, self._first)

    def _saved(self, item: Any) -> Any:
        """An item as its leaves, or as it is if it has other parts than the first one."""
        values: list[Any] = []
        try:
            map_leaves(lambda _, leaf: values.append(leaf), self._first, item)
        except (LookupError, TypeError, ValueError):
            return {"item": item}
        return {"item": item} if any(map(is_container, values)) else values

    def _restored(self, saved: list[Any]) -> Any:
        """Rows from a checkpoint."""

        def filled(values: Any) -> Any:
            if isinstance(values, dict):
                return values["item"]
            each = iter(values)
            return map_leaves(lambda _: next(each), self._first)

        return filled(saved) if self.equal else [filled(item) for item in saved]

    def _described(self, rows: Any, dropped: int = 1) -> str:
        return describe_form(dict(zip("xy", rows, strict=True)) if self.pair else rows, dropped)


def _rows_alike(rows: Any) -> bool:
    counts = {len(leaf) for leaf in leaves(rows) if isinstance(leaf, Tensor | list)}
    return len(counts) == 1 and 0 not in counts


def as_stream(
    samples: Iterable[Any],
    length: int | None = None,
    *,
    batched: bool | None = None,
    columns: tuple[str, str] | None = None,
    collate: Collate | None = None,
) -> IterableSource:
    """Train on a stream of samples without random access, with fewer guarantees.

    The order is that of the stream, without shuffling. An epoch is `length` samples, independently of the passes of the
    stream, which restarts at its end, after `set_epoch(pass)` if it or a loader's data set has that method. Resuming
    reads all samples of a pass before the position again, unless the stream has `state_dict` and `load_state_dict`; it
    is exact if the stream is reproducible. Each of several processes reads the whole stream and uses its part. Streams
    cannot be split or probed. `write_shards` converts a stream to data without these limits.

    Args:
        samples: an `IterableDataset`, a loader, a generator: pairs (x, y) or other nests of tensors, arrays, numbers
            and texts, all of the same shapes unless `collate` is given.
        length: number of samples in an epoch, at least 2 (default: the length of `samples`).
        batched: whether items are batches with the samples in the first dimension (default: True for a `DataLoader`
            that batches).
        columns: the names of x and y, to make pairs of items that are mappings such as {"image": ..., "label": ...}.
        collate: function from a list of samples to a batch, for samples that cannot be stacked.

    Raises:
        DataError: not iterable, empty, or samples that cannot be collated.
        InputError: an argument is out of range, or `length` is required.
    """
    items = StreamItems(samples, batched, columns)
    if collate is not None and items.batched:
        raise InputError(
            f"collate= is for single samples, but {items.name} returns batches: pass batch_size=None to it"
        )
    if length is None:
        sized = samples.dataset if isinstance(samples, DataLoader) else None if items.batched else samples
        try:
            length = len(sized)  # type: ignore[arg-type]
        except (TypeError, NotImplementedError):
            raise InputError(f"{items.name} has no length: pass length=, the number of samples in an epoch") from None
    require_whole("length", length, least=2)
    return IterableSource(items, length, collate)
