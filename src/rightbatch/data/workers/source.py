"""Samples prefetched by worker processes, with variable batch sizes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..block_order import BlockOrder
from ..nest import leaves
from ..order import NO_EPOCH, Indices, Order, require_positions
from ..source import Source, SourceWrapper
from .pool import WorkerPool
from .slots import ItemSlots, SharedSlots, Slots, Task

CHUNK_BYTES = 2**20
CHUNK_SAMPLES = 256
LEAST_CHUNKS = 32  # minimum number of chunks per epoch, so that small data sets are split too
BUFFER_BYTES = 2**27
MOST_PENDING = 32  # pending chunks per worker: what a pipe accepts without blocking
AHEAD_PER_WORKER = 2  # chunks: the current one, and the next


class Chunk(NamedTuple):
    """The positions of one epoch that one task fetches: a fixed grid, independent of batches."""

    epoch: int
    start: int
    stop: int


# The content of a slot: the index of the source, the order's seed and mixing, and the positions.
Key = tuple[int, int, str, Chunk]


class WorkerSource(SourceWrapper):
    """A source whose samples are prefetched by worker processes.

    The workers fetch chunks: fixed intervals of an epoch's positions, identified by epoch and bounds. This process cuts
    batches out of them, so workers are independent of the batch size. The next chunks are predicted from the last two
    intervals; a wrong prediction costs time but never loses a sample. The global generators of Python, NumPy and torch
    are seeded for each item by (seed, epoch, item): random augmentations depend neither on the number of workers nor on
    batches or chunks. (For a data set with `__getitems__` they are seeded by the first item of a chunk.)

    Args:
        source: the source that the workers read.
        workers: number of processes.
        method: start method (default: that of the platform).
        begin: called in each worker with its number when it starts.
        ahead: chunks that each worker prefetches, at least 2.
        family: the sources that share these workers.
    """

    def __init__(
        self,
        source: Source,
        workers: int,
        method: str | None = None,
        *,
        begin: Callable[[int], None] | None = None,
        ahead: int | None = None,
        family: _Family | None = None,
    ) -> None:
        super().__init__(source, f"{workers} worker processes" if workers > 1 else "a worker process")
        self._family = family or _Family(source, workers, method, begin)
        self._number = self._family.add(source)
        self._workers, self._ahead = workers, max(AHEAD_PER_WORKER, ahead or 0)
        self._last: tuple[int, int, int] | None = None

    def __len__(self) -> int:
        return len(self._source)

    def parts(self, *sources: Source) -> list[WorkerSource]:
        """Return sources for parts of this one that share its workers."""
        found = [WorkerSource(source, self._workers, ahead=self._ahead, family=self._family) for source in sources]
        for part in found:
            part.follow(self)
        return found

    def fetch(self, indices: Tensor) -> Any:
        """Fetch the samples at `indices` in the workers."""
        return self.fetch_epoch(indices, 0, NO_EPOCH)

    def fetch_epoch(self, indices: Tensor, seed: int, epoch: int) -> Any:
        """Fetch the samples at `indices` for one epoch, in the workers."""
        family, rows = self._family, indices.numpy()
        out = family.buffer(len(indices))
        started = 0
        waiting: deque[tuple[int, int]] = deque()
        for start in range(0, len(rows), family.samples):
            while started < len(rows) and len(waiting) < family.own:
                piece = rows[started : started + family.samples]
                waiting.append((started, family.begin_own(self._number, seed, epoch, piece)))
                started += family.samples
            at, slot = waiting.popleft()
            family.copy(slot, 0, min(family.samples, len(rows) - start), out, at)
            family.release_own(slot)
        return family.batch(self._source, out)

    def fetch_interval(self, order: Order | BlockOrder, epoch: int, start: int, stop: int) -> Any:
        """Return the samples at positions of an epoch, and prefetch those that are likely to follow."""
        require_positions(epoch, start, stop, order.n)
        family = self._family
        out = family.buffer(stop - start)
        step = stop - start
        if self._last is not None and self._last[0] == epoch and self._last[2] < start:
            step = start - self._last[1]  # one of several processes, which takes every k-th interval
        self._last = (epoch, start, stop)
        ahead = max(self._ahead * self._workers, -(-2 * (stop - start) // family.samples))
        for chunk in self._chunks(order.n, epoch, start, stop):
            foreseen = self._foreseen(order.n, chunk, epoch, start, stop, step)
            slot = family.want(self._number, order, chunk, foreseen, ahead)
            first, last = max(start, chunk.start), min(stop, chunk.stop)
            family.copy(slot, first - chunk.start, last - chunk.start, out, first - start)
        return family.batch(self._source, out)

    def _chunks(self, n: int, epoch: int, start: int, stop: int) -> Iterator[Chunk]:
        each = self._family.samples
        for begin in range(start // each * each, stop, each):
            yield Chunk(epoch, begin, min(begin + each, n))

    def _foreseen(self, n: int, after: Chunk, epoch: int, start: int, stop: int, step: int) -> Iterator[Chunk]:
        """The chunks after `after` in epochs of n positions, if intervals continue as before."""
        length, each, last = stop - start, self._family.samples, after
        while step <= length:
            epoch, start = (last.epoch, last.stop) if last.stop < n else (last.epoch + 1, 0)
            last = Chunk(epoch, start, min(start + each, n))
            yield last
        while True:
            if epoch == last.epoch and stop <= last.stop:
                start += (last.stop - stop) // step * step  # all intervals up to here are within the last chunk
            start += step
            if start >= n:
                epoch, start = epoch + 1, start - n
            stop = min(start + length, n)
            for chunk in self._chunks(n, epoch, start, stop):
                if (chunk.epoch, chunk.start) > (last.epoch, last.start):
                    last = chunk
                    yield chunk


class _Family:
    """The state shared by sources with the same workers: processes, slots and their content."""

    def __init__(
        self, source: Source, workers: int, method: str | None, begin: Callable[[int], None] | None = None
    ) -> None:
        self._example, sample_bytes = _example(source)
        most = min(CHUNK_SAMPLES, CHUNK_BYTES // sample_bytes, len(source) // LEAST_CHUNKS)
        self.samples = max(1, most)
        self.own = workers * AHEAD_PER_WORKER  # slots for samples fetched by index
        shared = max(workers * AHEAD_PER_WORKER + 1, BUFFER_BYTES // (sample_bytes * self.samples))
        self._slot_count = self.own + min(shared, 2**12)
        self._sources: list[Source] = []
        self._workers, self._method, self._begin_worker = workers, method, begin
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        names = ("samples", "own", "_slot_count", "_sources", "_workers", "_method", "_begin_worker", "_example")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def _forget(self) -> None:
        self._pool: Any = None
        self._slots: Slots | None = None
        self._held: dict[Key, int] = {}  # chunks in slots or being fetched, oldest first
        self._pending: set[int] = set()
        self._free_own = list(range(self.own))
        self._free = list(range(self.own, self._slot_count))

    def add(self, source: Source) -> int:
        """Add a source and return its index; running workers are restarted."""
        self._sources.append(source)
        self.close()
        return len(self._sources) - 1

    def close(self) -> None:
        """Stop the workers; they restart at the next task."""
        if self._pool is not None:
            self._pool.close()
        self._forget()

    def begin_own(self, source: int, seed: int, epoch: int, indices: Indices) -> int:
        """Start fetching samples by index; return the slot."""
        self._run()
        slot = self._free_own.pop()
        self._begin(Task(slot, source, seed, epoch, indices))
        return slot

    def release_own(self, slot: int) -> None:
        """Release such a slot."""
        self._free_own.append(slot)

    def buffer(self, count: int) -> list[Any]:
        """Return space for a number of samples."""
        self._run()
        assert self._slots is not None
        return self._slots.buffer(count)

    def batch(self, source: Source, out: list[Any]) -> Any:
        """Return a full buffer as a batch of a source."""
        assert self._slots is not None
        return self._slots.batch(source, out)

    def copy(self, slot: int, first: int, last: int, out: list[Any], at: int) -> None:
        """Wait for a slot, and copy its samples first, ..., last - 1 into `out`.

        Raises:
            DataError: the worker failed.
        """
        if slot in self._pending:
            with self._or_close():
                self._pool.finish(slot)
            self._pending.discard(slot)
        assert self._slots is not None
        self._slots.copy(slot, first, last, out, at)

    def want(self, source: int, order: Order | BlockOrder, chunk: Chunk, foreseen: Iterator[Chunk], ahead: int) -> int:
        """Request a chunk and up to `ahead` predicted ones; return the slot of the first."""
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
        """A slot that is free, or whose content is neither wanted nor being fetched; if `must`, wait for one."""
        unwanted = [key for key in self._held if key not in wanted]
        done = [key for key in unwanted if self._held[key] not in self._pending]
        if not done and self._free:  # only now: recently used memory is in the processor's cache
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
        """After an error, stop the workers; they restart at the next task."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _run(self) -> None:
        """Start the workers if they are not running."""
        if self._pool is None or not self._pool.usable:
            self.close()
            if self._example is None:
                self._slots = ItemSlots(self._slot_count, self.samples)
            else:
                self._slots = SharedSlots(self._example, self._slot_count, self.samples)
            self._pool = WorkerPool(self._sources, self._workers, self._slots, self._method, self._begin_worker)


def _example(source: Source) -> tuple[Any, int]:
    """A batch of one sample, None unless all its leaves are tensors of one shape, and the bytes of a sample."""
    if source.pair and source.equal:
        shapes = (source.x_shape, source.x_dtype), (source.y_shape, source.y_dtype)
        example: Any = tuple(torch.empty((1, *shape), dtype=dtype) for shape, dtype in shapes)
    else:
        example = source.fetch(torch.tensor([0]))
    found = list(leaves(example))
    sample_bytes = max(1, sum(leaf.nbytes for leaf in found if isinstance(leaf, Tensor)))
    shared = source.equal and all(isinstance(leaf, Tensor) for leaf in found)
    return example if shared else None, sample_bytes
