"""Worker processes that fetch samples: requests go through pipes, samples through shared memory."""

from __future__ import annotations

import os
import random
import signal
import struct
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from math import prod
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.heap import BufferWrapper
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError
from .. import map_style
from ..order import Indices
from ..source import Source

PARENT_EVERY_S = 2.0  # interval between checks that the parent is alive, where the closed pipe does not show it
CLOSE_S = 5.0


class Task(NamedTuple):
    """A request to fetch samples of a source into a slot; seed and epoch seed the random generators of each item."""

    slot: int
    source: int
    seed: int
    epoch: int
    indices: Indices


class Slots:
    """Slots in shared memory, each for a number of samples of one shape and type.

    Args:
        source: the source of the samples.
        count: number of slots.
        samples: number of samples per slot.
    """

    def __init__(self, source: Source, count: int, samples: int) -> None:
        self.count, self.samples = count, samples
        self._parts = [(source.x_shape, source.x_dtype), (source.y_shape, source.y_dtype)]
        sizes = [max(1, samples * prod(shape) * dtype.itemsize) for shape, dtype in self._parts]
        self._starts = [0, -(-sizes[0] // 64) * 64]
        self._stride = -(-(self._starts[1] + sizes[1]) // 64) * 64
        # The heap of multiprocessing: memory that is allocated only when written to, on any platform.
        self._memory = BufferWrapper(count * self._stride)
        self._tensors: tuple[list[Tensor], list[Tensor]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_tensors": None}

    def tensors(self, slot: int) -> tuple[Tensor, Tensor]:
        """Return x and y of a slot."""
        if self._tensors is None:
            memory = self._memory.create_memoryview()
            self._tensors = tuple(  # type: ignore[assignment]
                [
                    torch.frombuffer(
                        memory, dtype=dtype, count=self.samples * prod(shape), offset=start + number * self._stride
                    ).reshape(self.samples, *shape)
                    for number in range(self.count)
                ]
                for (shape, dtype), start in zip(self._parts, self._starts, strict=True)
            )
        assert self._tensors is not None
        return self._tensors[0][slot], self._tensors[1][slot]


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    pipe: Connection
    waiting: set[int] = field(default_factory=set)


class WorkerPool:
    """Worker processes for some sources; they end with the process that started them.

    Args:
        sources: the sources; all have samples of one shape and type.
        workers: number of processes.
        slots: where they write fetched samples.
        method: start method, "fork", "spawn" or "forkserver" (default: that of the platform).

    Raises:
        DataError: a process has ended unexpectedly.
    """

    def __init__(self, sources: Sequence[Source], workers: int, slots: Slots, method: str | None) -> None:
        self._context = get_context(method)
        self._workers: list[_Worker] = []
        self._done: dict[int, DataError | None] = {}
        forks = self._context.get_start_method() == "fork"
        for _ in range(workers):
            here, there = self._context.Pipe()
            # A fork copies the near ends of all pipes so far, which would keep them open after the parent has ended.
            near = [*(worker.pipe for worker in self._workers), here] if forks else []
            process = self._context.Process(  # type: ignore[attr-defined]
                target=_work, args=(there, near, list(sources), slots), daemon=True, name="rightbatch data worker"
            )
            process.start()
            there.close()
            self._workers.append(_Worker(process, here))
        self._owner = os.getpid()
        # Before multiprocessing's own cleanup, which would wait for processes that ignore SIGTERM.
        self.close = Finalize(self, _close, (self._workers, self._owner), exitpriority=10)

    @property
    def usable(self) -> bool:
        """Whether this process started the workers, and none has ended."""
        return os.getpid() == self._owner and all(worker.process.is_alive() for worker in self._workers)

    def begin(self, task: Task) -> None:
        """Send a task to the worker with the fewest tasks."""
        worker = min(self._workers, key=lambda worker: len(worker.waiting))
        worker.waiting.add(task.slot)
        try:
            worker.pipe.send(task)
        except (BrokenPipeError, ConnectionError):
            self._died(worker)

    def finished(self, slot: int) -> bool:
        """Whether a slot's task is done."""
        self._receive(0.0)
        return slot in self._done

    def finish(self, slot: int) -> None:
        """Wait until a slot's task is done.

        Raises:
            DataError: the task failed, or a worker has ended.
        """
        while slot not in self._done:
            self._receive(None)
        error = self._done.pop(slot)
        if error is not None:
            raise error

    def forget(self, slot: int) -> None:
        """Wait until a slot's task is done and ignore its result and errors.

        Raises:
            DataError: a worker has ended.
        """
        while slot not in self._done:
            self._receive(None)
        del self._done[slot]

    def _receive(self, timeout_s: float | None) -> None:
        pipes = {worker.pipe: worker for worker in self._workers if worker.waiting}
        ready = wait([*pipes, *(worker.process.sentinel for worker in pipes.values())], timeout_s)
        for worker in pipes.values():
            if worker.pipe not in ready:
                if worker.process.sentinel in ready:
                    self._died(worker)
                continue
            try:
                while worker.pipe.poll():
                    slot, error = worker.pipe.recv()
                    worker.waiting.discard(slot)
                    self._done[slot] = _error(*error) if error else None
            except (EOFError, ConnectionError):
                self._died(worker)

    def _died(self, worker: _Worker) -> None:
        worker.process.join(CLOSE_S)
        code = worker.process.exitcode
        self.close()
        killed = " (killed by a signal, perhaps out of memory)" if code is not None and code < 0 else ""
        raise DataError(f"a worker process that fetches samples ended with exit code {code}{killed}")


def _close(workers: list[_Worker], owner: int) -> None:
    """Stop the workers: they exit when their pipes close; workers busy with an item are killed."""
    if os.getpid() != owner:
        return
    for worker in workers:
        worker.pipe.close()
    for worker in workers:
        worker.process.join(0.1)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join(CLOSE_S)


def _error(message: str, trace: str) -> DataError:
    error = DataError(message)
    error.add_note(trace)
    return error


def _work(pipe: Connection, near: list[Connection], sources: list[Source], slots: Slots) -> None:
    """The main loop of a worker: run tasks until the pipe closes or the parent has ended."""
    for end in near:
        end.close()
    # Ctrl-C and SIGTERM are for the parent, which may need running tasks to finish its step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
    parent = parent_process()
    try:
        while True:
            while not pipe.poll(PARENT_EVERY_S):
                if parent is not None and not parent.is_alive():
                    return
            task = pipe.recv()
            pipe.send((task.slot, _fulfil(task, sources[task.source], slots)))
    except (EOFError, ConnectionError):
        return


def _fulfil(task: Task, source: Source, slots: Slots) -> tuple[str, str] | None:
    """Run a task; return the error message and traceback, or None."""
    which = "the samples"

    def begin(rows: list[int]) -> None:
        nonlocal which
        which = f"item {rows[0]}" if len(rows) == 1 else f"one of the items {rows[0]}, ..., {rows[-1]}"
        seed_item(task.seed, task.epoch, rows[0])

    map_style.begin_items = begin
    try:
        parts = source.fetch_epoch(torch.from_numpy(task.indices), task.seed, task.epoch)
        for name, part, place in zip("xy", parts, slots.tensors(task.slot), strict=True):
            if part.shape[1:] != place.shape[1:] or part.dtype != place.dtype:
                raise DataError(
                    f"{name} of some of the items {task.indices[:8].tolist()}... is {list(part.shape[1:])} "
                    f"{part.dtype}, that of item 0 is {list(place.shape[1:])} {place.dtype}: all must be alike"
                )
            place[: len(part)] = part
    except DataError as error:
        return str(error), traceback.format_exc()
    except Exception as error:
        return f"{which} failed: {type(error).__name__}: {error}", traceback.format_exc()
    return None


def seed_item(seed: int, epoch: int, row: int) -> None:
    """Seed the global generators of Python, NumPy and torch for one item of one epoch."""
    words = struct.unpack("<QQI", blake2b(struct.pack("<QQQ", seed, epoch, row), digest_size=20).digest())
    random.seed(words[0])
    np.random.seed(words[2])
    torch.default_generator.manual_seed(words[1] >> 1)
