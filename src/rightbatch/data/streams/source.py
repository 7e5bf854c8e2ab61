"""Samples that come one after another and in no other way: `IterableDataset`s, generators, loaders."""

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
from ..collating import Collation
from ..source import Source
from .items import StreamItems
from .passes import Passes

SAMPLE = 2**12
SAMPLE_BYTES = 2**26
READ_AT_ONCE = 2**12
ADVICE = (
    "its samples come one after another only. Bring it to the disk with "
    "rightbatch.data.write_shards(samples, folder) and give the folder"
)


class _Chunk(NamedTuple):
    """Samples start, ..., stop - 1 of the stream; before them so many items of a pass had been read, -1 if unknown."""

    start: int
    stop: int
    x: Tensor
    y: Tensor
    passes: int
    items: int


class IterableSource(Source):
    """A stream of samples, in the order it has; made by `as_stream`.

    The samples of a batch are kept until its step is taken, for trial steps, measurements and passes that ran out of
    memory want them again; so are the first ones, `sample`.

    Args:
        items: what is iterated, again and again.
        length: samples of an epoch.

    Raises:
        DataError: no items, or items that are not pairs of what can be tensors.
    """

    def __init__(self, items: StreamItems, length: int) -> None:
        self._items, self._name, self._length = items, items.name, length
        self._passes = Passes(items.samples, items.name)
        self._chunks: deque[_Chunk] = deque()
        self._begin = self._end = 0  # what is held, counted from the first sample of all
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
        self.notes = (f"{self._name}, in the order it has",)
        self._most_sampled = max(2, min(SAMPLE, SAMPLE_BYTES // max(1, x[0].nbytes + y[0].nbytes)))
        self._take_in(x, y, 0)
        (second,) = self._passes.take(1)
        self._take_in(*self._tensors([items.pair(second)]), self._passes.handed_out - 1)
        self._way = items.way(first, second)

    def __len__(self) -> int:
        return self._length

    def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and y of samples of `sample` by their numbers; no others can be had so.

        Raises:
            InputError: a sample that is not among them.
        """
        sample = self.sample()
        if len(indices) and int(indices.max()) >= len(sample):
            raise InputError(f"sample {int(indices.max()):,} of a stream was wanted: {ADVICE}")
        return sample.fetch(indices)

    def fetch_interval(self, epoch: int, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return x and y at positions start, ..., stop - 1 of an epoch, none before what has been let go of.

        Raises:
            InputError: what has been let go of.
            DataError: a stream that ends, or changes; else what it raises itself.
        """
        before = epoch * self._length
        return self._rows(before + start, before + stop)

    def sample(self) -> TensorSource:
        """The first of the samples that have been let go of, at least two, at most 4,096 or 64 MiB of them.

        They depend on the place alone, not on how far this process has read beyond it.
        """
        count = min(self._most_sampled, max(2, self._begin))
        self._reach(count)
        x, y = zip(*self._sample, strict=True)
        return TensorSource(torch.cat(x)[:count], torch.cat(y)[:count], self.notes)

    def begin_anew(self) -> None:
        """Come back to the first sample.

        Raises:
            InputError: an iterator of which samples have been let go of.
        """
        if self._begin:
            self._passes.seek(0, 0)
            self._chunks, self._begin, self._end = deque(), 0, 0

    def let_go(self, epoch: int, position: int) -> None:
        """Be told that nothing before this place will be wanted again."""
        self._begin = max(self._begin, epoch * self._length + position)
        while self._chunks and self._chunks[0].stop <= self._begin:
            self._chunks.popleft()

    def state_dict(self, epoch: int, position: int) -> dict[str, Any]:
        """Return what leads back to a place that has not been let go of, in plain numbers.

        Where the stream has a state of its own, that is part of it, and so are the samples read beyond the place.
        """
        place = epoch * self._length + position
        self._reach(place)
        own = self._passes.own_state()
        held = next((chunk for chunk in self._chunks if chunk.stop > place), None)
        if own is None and held is not None and held.items >= 0:
            # Of batches the place may be in the midst of one.
            start, items = (held.start, held.items) if self._items.batched else (place, held.items + place - held.start)
            return {"start": start, "pass": held.passes, "items": items, "own": None}
        state = {"start": place, "pass": self._passes.number, "items": self._passes.handed_out, "own": own}
        if held is not None:
            state["x"], state["y"] = self._rows(place, self._end)
        return state

    def load_state_dict(self, state: dict[str, Any], epoch: int, position: int) -> None:
        """Come back to a saved place.

        Raises:
            InputError: an iterator that is past it, or a stream that has become shorter.
        """
        place = epoch * self._length + position
        self._reach(min(place, self._most_sampled))  # the sample is not saved
        if state["own"] is not None or not self._begin <= place <= self._end:
            self._passes.seek(state["pass"], state["items"], state["own"])
            self._chunks, self._begin, self._end = deque(), place, state["start"]
            if "x" in state:
                self._take_in(state["x"], state["y"], -1)
        self.let_go(epoch, position)

    def _rows(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        if start < self._begin:
            raise InputError(
                f"sample {start:,} of a stream was wanted, which stands at {self._begin:,} already: {ADVICE}"
            )
        self._reach(stop)
        parts = [chunk for chunk in self._chunks if chunk.start < stop and chunk.stop > start]
        cuts = [slice(max(0, start - chunk.start), stop - chunk.start) for chunk in parts]
        x = torch.cat([chunk.x[cut] for chunk, cut in zip(parts, cuts, strict=True)])  # a copy, the caller's own
        return x, torch.cat([chunk.y[cut] for chunk, cut in zip(parts, cuts, strict=True)])

    def _reach(self, stop: int) -> None:
        """Read until so many samples have been read in all."""
        while self._end < stop:
            most = 1 if self._items.batched else min(stop - self._end, READ_AT_ONCE)
            items = self._passes.take(most, self._way)
            self._take_in(*self._tensors(items), self._passes.handed_out - len(items))

    def _take_in(self, x: Tensor, y: Tensor, before: int) -> None:
        """Hold samples before which so many items of the present pass had been read."""
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
                raise DataError(f"{self._name} gave {shapes}, which is no batch: both must have as many rows")
            x, y = x[0], y[0]
        form = x.shape[1:], x.dtype, y.shape[1:], y.dtype
        if form != (self._form or form):
            found, first = (f"x {list(a)} {b}, y {list(c)} {d}" for a, b, c, d in (form, self._form))
            raise DataError(f"sample {self._end:,} of {self._name} has {found}; the first has {first}")
        self._form = form
        return x, y


def as_stream(
    samples: Iterable[Any],
    length: int | None = None,
    *,
    batched: bool | None = None,
    columns: tuple[str, str] | None = None,
) -> IterableSource:
    """Train on samples that come one after another and cannot be had by number: the promises are weaker.

    The order is the stream's own; nothing is shuffled. An epoch is `length` samples, whatever the stream's own passes:
    at its end it is begun anew, after `set_epoch(pass)` if it, or a loader's data set, has that. Resuming goes through
    all samples of a pass before the place again, unless the stream has `state_dict` and `load_state_dict`; it is exact
    if the stream is the same each time. Several processes read the whole stream each and use their shares of it. There
    are no parts to hold out, and no probing. `write_shards` makes a stream data without these limits.

    Args:
        samples: an `IterableDataset`, a loader, a generator: pairs (x, y) of tensors, arrays or numbers, of one shape.
        length: samples of an epoch, at least 2; None where `samples` tells its length.
        batched: whether items are batches, their first dimension that of the samples; None asks a `DataLoader`.
        columns: the names of x and y, where items are mappings such as {"image": ..., "label": ...}.

    Raises:
        DataError: not iterable, empty, or not of such pairs.
        InputError: settings out of range, or length not given where it is needed.
    """
    items = StreamItems(samples, batched, columns)
    if length is None:
        sized = samples.dataset if isinstance(samples, DataLoader) else None if items.batched else samples
        try:
            length = len(sized)  # type: ignore[arg-type]
        except (TypeError, NotImplementedError):
            raise InputError(
                f"{items.name} does not tell how many samples it has: give length=, the samples of an epoch, by "
                "which evaluations and budgets are counted"
            ) from None
    require_whole("length", length, least=2)
    return IterableSource(items, length)


def require_map_style(source: Source, use: str) -> None:
    """Refuse a stream where samples must be had in any sequence, and again.

    Raises:
        DataError: saying what for, and what to do.
    """
    if isinstance(source, IterableSource):
        raise DataError(
            f"a stream cannot be {use}: its samples come once, one after another. Write them, or as many as are "
            "needed, to the disk with rightbatch.data.write_shards(samples, folder, most=...) and give the folder"
        )
