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
from ..collating import Collation
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
    x: Tensor
    y: Tensor
    passes: int
    items: int


class IterableSource(Source):
    """A stream of samples in its own order; created by `as_stream`.

    The samples of a batch are stored until its step is complete, since trial steps, measurements and retries after
    out-of-memory errors read them again; so are the first ones, `sample`.

    Args:
        items: the items of the stream.
        length: number of samples in an epoch.

    Raises:
        DataError: there are no items, or they are not pairs of tensors, arrays or numbers.
    """

    sequential = True

    def __init__(self, items: StreamItems, length: int) -> None:
        self._items, self._name, self._length = items, items.name, length
        self._passes = Passes(items.samples, items.name)
        self._chunks: deque[_Chunk] = deque()
        self._begin = self._end = 0  # the stored range, counted from the very first sample
        self._sample: list[tuple[Tensor, Tensor]] = []
        self._sampled = 0
        self._form: tuple[Any, ...] = ()  # shapes and types
        self._way: Callable[[Any], Any] | None = None
        (first,) = self._passes.take(1)
        pair = items.pair(first)
        self._collate = Collation(self._name, pair)
        x, y = self._tensors([pair])
        self.x_shape, self.x_dtype = tuple(x.shape[1:]), x.dtype
        self.y_shape, self.y_dtype = tuple(y.shape[1:]), y.dtype
        self.notes = (f"{self._name}, in its own order",)
        self._most_sampled = max(2, min(SAMPLE, SAMPLE_BYTES // max(1, x[0].nbytes + y[0].nbytes)))
        self._take_in(x, y, 0)
        (second,) = self._passes.take(1)
        self._take_in(*self._tensors([items.pair(second)]), self._passes.handed_out - 1)
        self._way = items.way(first, second)

    def __len__(self) -> int:
        return self._length

    def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and y of samples of `sample` by index; no others have random access.

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

    def fetch_interval(self, order: Order | BlockOrder, epoch: int, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return x and y at positions start, ..., stop - 1 of an epoch that have not been discarded.

        Raises:
            InputError: the samples have been discarded.
            DataError: the stream ends or changes; its own exceptions are passed on.
        """
        before = epoch * self._length
        return self._rows(before + start, before + stop)

    def sample(self) -> TensorSource:
        """The first discarded samples, at least two, at most 4,096 or 64 MiB.

        They depend only on the position, not on how far this process has read ahead.
        """
        count = min(self._most_sampled, max(2, self._begin))
        self._reach(count)
        x, y = zip(*self._sample, strict=True)
        return TensorSource(torch.cat(x)[:count], torch.cat(y)[:count], self.notes)

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
            state["x"], state["y"] = self._rows(place, self._end)
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
            if "x" in state:
                self._take_in(state["x"], state["y"], -1)
        self.discard_before(epoch, position)

    def _rows(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        if start < self._begin:
            raise InputError(f"sample {start:,} has been discarded, the stream is at {self._begin:,}: {ADVICE}")
        self._reach(stop)
        parts = [chunk for chunk in self._chunks if chunk.start < stop and chunk.stop > start]
        cuts = [slice(max(0, start - chunk.start), stop - chunk.start) for chunk in parts]
        x = torch.cat([chunk.x[cut] for chunk, cut in zip(parts, cuts, strict=True)])  # a copy
        return x, torch.cat([chunk.y[cut] for chunk, cut in zip(parts, cuts, strict=True)])

    def _reach(self, stop: int) -> None:
        """Read until `stop` samples have been read in total."""
        while self._end < stop:
            most = 1 if self._items.batched else min(stop - self._end, READ_AT_ONCE)
            items = self._passes.take(most, self._way)
            self._take_in(*self._tensors(items), self._passes.handed_out - len(items))

    def _take_in(self, x: Tensor, y: Tensor, before: int) -> None:
        """Store samples; `before` is the number of items of the current pass read before them."""
        start, self._end = self._end, self._end + len(x)
        self._chunks.append(_Chunk(start, self._end, x, y, self._passes.number, before))
        if start <= self._sampled < min(self._end, self._most_sampled):
            cut = slice(self._sampled - start, self._most_sampled - start)
            for name, part in (("x", x[cut]), ("y", y[cut])):
                require_finite(part, name, f" of {self._name}, from sample {self._sampled:,} on,")
            self._sample.append((x[cut].clone(), y[cut].clone()))
            self._sampled += len(self._sample[-1][0])

    def _tensors(self, items: list[Any]) -> tuple[Tensor, Tensor]:
        x, y = self._collate(items)
        if self._items.batched:
            if x.dim() < 2 or y.dim() < 2 or not x.shape[1] == y.shape[1] > 0:
                shapes = f"x {list(x.shape[1:])} and y {list(y.shape[1:])}"
                raise DataError(
                    f"{self._name} returned {shapes}, which is not a batch: both must have the same number of rows"
                )
            x, y = x[0], y[0]
        form = x.shape[1:], x.dtype, y.shape[1:], y.dtype
        if form != (self._form or form):
            found, first = (f"x {list(a)} {b}, y {list(c)} {d}" for a, b, c, d in (form, self._form))
            raise DataError(f"sample {self._end:,} of {self._name} has {found}; the first sample has {first}")
        self._form = form
        return x, y


def as_stream(
    samples: Iterable[Any],
    length: int | None = None,
    *,
    batched: bool | None = None,
    columns: tuple[str, str] | None = None,
) -> IterableSource:
    """Train on a stream of samples without random access, with fewer guarantees.

    The order is that of the stream, without shuffling. An epoch is `length` samples, independently of the passes of the
    stream, which restarts at its end, after `set_epoch(pass)` if it or a loader's data set has that method. Resuming
    reads all samples of a pass before the position again, unless the stream has `state_dict` and `load_state_dict`; it
    is exact if the stream is reproducible. Each of several processes reads the whole stream and uses its part. Streams
    cannot be split or probed. `write_shards` converts a stream to data without these limits.

    Args:
        samples: an `IterableDataset`, a loader, a generator: pairs (x, y) of tensors, arrays or numbers, all of the
            same shape.
        length: number of samples in an epoch, at least 2 (default: the length of `samples`).
        batched: whether items are batches with the samples in the first dimension (default: True for a `DataLoader`
            that batches).
        columns: the names of x and y, where items are mappings such as {"image": ..., "label": ...}.

    Raises:
        DataError: not iterable, empty, or not a stream of such pairs.
        InputError: an argument is out of range, or `length` is required.
    """
    items = StreamItems(samples, batched, columns)
    if length is None:
        sized = samples.dataset if isinstance(samples, DataLoader) else None if items.batched else samples
        try:
            length = len(sized)  # type: ignore[arg-type]
        except (TypeError, NotImplementedError):
            raise InputError(f"{items.name} has no length: pass length=, the number of samples in an epoch") from None
    require_whole("length", length, least=2)
    return IterableSource(items, length)
