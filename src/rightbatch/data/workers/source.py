"""Samples fetched ahead by worker processes, while batches change their size as they like."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..block_order import BlockOrder
from ..order import NO_EPOCH, Indices, Order, require_positions
from ..source import Source, Wrapper
from .pool import Slots, Task, WorkerPool

CHUNK_BYTES = 2**20
CHUNK_SAMPLES = 256
LEAST_CHUNKS = 32  # that a set is divided into, so that small sets are divided too
BUFFER_BYTES = 2**27
MOST_PENDING = 32  # chunks asked of a worker at a time: what a pipe takes without waiting
AHEAD_PER_WORKER = 2  # chunks: one under way, one to begin with at once


class Chunk(NamedTuple):
    """The positions of one epoch that one task fetches: a fixed grid, whatever the batches are."""

    epoch: int
    start: int
    stop: int


# What a slot holds: the number of the source, the order's seed and how it mixes, and the positions.
Key = tuple[int, int, str, Chunk]


class WorkerSource(Wrapper):
    """A source whose samples are fetched ahead by processes.

    The workers fetch chunks: fixed intervals of an epoch's positions, each known by its epoch and bounds. Batches are
    cut out of them by this process, so the batch size is no concern of theirs. Which chunks come next is foreseen from
    the last two intervals asked for; a wrong guess costs time, never a sample. Those of Python, NumPy and torch that
    draw from their global generators while an item is fetched find them seeded by (seed, epoch, item): random
    augmentations depend neither on the number of workers nor on what a batch or a chunk holds. (Of a data set with
    `__getitems__` the generators are seeded by the first item of a chunk.)

    Args:
        source: what the workers fetch from.
        workers: processes.
        method: how they are started; None as the platform does.
        family: the sources the same workers fetch from.
    """

    def __init__(self, source: Source, workers: int, method: str | None = None, family: _Family | None = None) -> None:
        super().__init__(source, f"{workers} worker processes" if workers > 1 else "a worker process")
        self._family = family or _Family(source, workers, method)
        self._number = self._family.add(source)
        self._workers = workers
        self._last: tuple[int, int, int] | None = None

    def __len__(self) -> int:
        return len(self._source)

    @property
    def source(self) -> Source:
        """What the workers fetch from."""
        return self._source

    def parts(self, *sources: Source) -> list[WorkerSource]:
        """Return sources over parts of this one, fetched from by the same workers."""
        return [WorkerSource(source, self._workers, family=self._family) for source in sources]

    def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Have the workers fetch x and y of the samples at `indices`, now."""
        return self.fetch_epoch(indices, 0, NO_EPOCH)

    def fetch_epoch(self, indices: Tensor, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        """Have the workers fetch x and y of the samples at `indices`, now, as one epoch has them."""
        family, out, rows = self._family, self._empty(len(indices)), indices.numpy()
        begun = 0
        waiting: deque[tuple[int, int]] = deque()
        for start in range(0, len(rows), family.samples):
            while begun < len(rows) and len(waiting) < family.own:
                piece = rows[begun : begun + family.samples]
                waiting.append((begun, family.begin_own(self._number, seed, epoch, piece)))
                begun += family.samples
            at, slot = waiting.popleft()
            family.copy(slot, 0, min(family.samples, len(rows) - start), out, at)
            family.release_own(slot)
        return out

    def fetch_interval(self, order: Order | BlockOrder, epoch: int, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return the samples at positions of an epoch, and have those fetched that are likely to be wanted next."""
        require_positions(epoch, start, stop, len(self))
        family, out = self._family, self._empty(stop - start)
        step = stop - start
        if self._last is not None and self._last[0] == epoch and self._last[2] < start:
            step = start - self._last[1]  # one of several processes, which takes every so-manieth piece
        self._last = (epoch, start, stop)
        ahead = max(AHEAD_PER_WORKER * self._workers, -(-2 * (stop - start) // family.samples))
        for chunk in self._chunks(epoch, start, stop):
            foreseen = self._foreseen(chunk, epoch, start, stop, step)
            slot = family.want(self._number, order, chunk, foreseen, ahead)
            first, last = max(start, chunk.start), min(stop, chunk.stop)
            family.copy(slot, first - chunk.start, last - chunk.start, out, first - start)
        return out

    def _empty(self, count: int) -> tuple[Tensor, Tensor]:
        return (
            torch.empty((count, *self.x_shape), dtype=self.x_dtype),
            torch.empty((count, *self.y_shape), dtype=self.y_dtype),
        )

    def _chunks(self, epoch: int, start: int, stop: int) -> Iterator[Chunk]:
        each, n = self._family.samples, len(self)
        for begin in range(start // each * each, stop, each):
            yield Chunk(epoch, begin, min(begin + each, n))

    def _foreseen(self, after: Chunk, epoch: int, start: int, stop: int, step: int) -> Iterator[Chunk]:
        """The chunks that follow one, where intervals go on as the last ones did."""
        n, length, each, last = len(self), stop - start, self._family.samples, after
        while step <= length:
            epoch, start = (last.epoch, last.stop) if last.stop < n else (last.epoch + 1, 0)
            last = Chunk(epoch, start, min(start + each, n))
            yield last
        while True:
            if epoch == last.epoch and stop <= last.stop:
                start += (last.stop - stop) // step * step  # all until there lie within the last chunk
            start += step
            if start >= n:
                epoch, start = epoch + 1, start - n
            stop = min(start + length, n)
            for chunk in self._chunks(epoch, start, stop):
                if (chunk.epoch, chunk.start) > (last.epoch, last.start):
                    last = chunk
                    yield chunk


class _Family:
    """What sources over the same workers share: the processes, the slots, and what is in them."""

    def __init__(self, source: Source, workers: int, method: str | None) -> None:
        sizes = (prod(source.x_shape) * source.x_dtype.itemsize, prod(source.y_shape) * source.y_dtype.itemsize)
        sample_bytes = max(1, sum(sizes))
        most = min(CHUNK_SAMPLES, CHUNK_BYTES // sample_bytes, len(source) // LEAST_CHUNKS)
        self.samples = max(1, most)
        self.own = workers * AHEAD_PER_WORKER  # slots for what is fetched by index
        shared = max(workers * AHEAD_PER_WORKER + 1, BUFFER_BYTES // (sample_bytes * self.samples))
        self._slot_count = self.own + min(shared, 2**12)
        self._sources: list[Source] = []
        self._workers, self._method = workers, method
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        kept = ("samples", "own", "_slot_count", "_sources", "_workers", "_method")
        return {name: getattr(self, name) for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def _forget(self) -> None:
        self._pool: Any = None
        self._slots: Slots | None = None
        self._held: dict[Key, int] = {}  # what is in slots or on its way, oldest first
        self._pending: set[int] = set()
        self._free_own = list(range(self.own))
        self._free = list(range(self.own, self._slot_count))

    def add(self, source: Source) -> int:
        """Take a source in; return its number. Workers that run already are started anew."""
        self._sources.append(source)
        self.close()
        return len(self._sources) - 1

    def close(self) -> None:
        """End the workers; they start again at the next task."""
        if self._pool is not None:
            self._pool.close()
        self._forget()

    def begin_own(self, source: int, seed: int, epoch: int, indices: Indices) -> int:
        """Have samples fetched by index into a slot that is returned."""
        self._run()
        slot = self._free_own.pop()
        self._begin(Task(slot, source, seed, epoch, indices))
        return slot

    def release_own(self, slot: int) -> None:
        """Give such a slot back."""
        self._free_own.append(slot)

    def copy(self, slot: int, first: int, last: int, out: tuple[Tensor, Tensor], at: int) -> None:
        """Wait for a slot, and copy its samples first, ..., last - 1 to a place in `out`.

        Raises:
            DataError: what went wrong in the worker.
        """
        if slot in self._pending:
            with self._or_close():
                self._pool.finish(slot)
            self._pending.discard(slot)
        assert self._slots is not None
        for part, held in zip(out, self._slots.tensors(slot), strict=True):
            part[at : at + last - first] = held[first:last]

    def want(self, source: int, order: Order | BlockOrder, chunk: Chunk, foreseen: Iterator[Chunk], ahead: int) -> int:
        """Have a chunk fetched, and then so many of those foreseen; return the slot of the first."""
        self._run()
        key = (source, order.seed, order.mixing if order.shuffle else "none", chunk)
        wanted = {key: None}
        for _ in range(min(ahead, self._slot_count - self.own - 1)):
            wanted[*key[:3], next(foreseen)] = None
        for each in wanted:
            if each in self._held:
                continue
            full = len(self._pending) >= MOST_PENDING * self._workers
            slot = None if full and each != key else self._slot_for(wanted, must=each == key)
            if slot is None:
                break
            _, seed, _, (epoch, start, stop) = each
            self._begin(Task(slot, source, seed, epoch, order.indices(epoch, start, stop)))
            self._held[each] = slot
        return self._held[key]

    def _slot_for(self, wanted: dict[Key, None], must: bool) -> int | None:
        """A slot that is free, or whose content is not wanted and not on its way; if there must be one, wait for it."""
        unwanted = [key for key in self._held if key not in wanted]
        done = [key for key in unwanted if self._held[key] not in self._pending]
        if not done and self._free:  # only now: memory that has been in use is in the processor's cache
            return self._free.pop()
        with self._or_close():
            done = done or [key for key in unwanted if self._pool.finished(self._held[key])]
            if not done and not must:
                return None
            key = (done or unwanted)[0]
            if self._held[key] in self._pending:
                self._pool.forget(self._held[key])
        slot = self._held.pop(key)
        self._pending.discard(slot)
        return slot

    def _begin(self, task: Task) -> None:
        self._pending.add(task.slot)
        with self._or_close():
            self._pool.begin(task)

    @contextmanager
    def _or_close(self) -> Iterator[None]:
        """After an error nothing is taken for granted: the workers start anew at the next task."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _run(self) -> None:
        """Start the workers where they do not run."""
        if self._pool is None or not self._pool.usable:
            self.close()
            self._slots = Slots(self._sources[0], self._slot_count, self.samples)
            self._pool = WorkerPool(self._sources, self._workers, self._slots, self._method)
