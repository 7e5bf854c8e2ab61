"""Worker processes that fetch samples: requests go through pipes, samples through slots."""

from __future__ import annotations

import os
import random
import signal
import struct
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from pickle import PicklingError
from typing import Any

import numpy as np
import torch
from torch.utils.data._utils import worker as torch_worker

from ...errors import DataError
from .. import map_style
from ..collating import items_only
from ..source import Source
from .slots import Slots, Task

PARENT_EVERY_S = 2.0  # interval between checks that the parent is alive, where the closed pipe does not show it
CLOSE_S = 5.0


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
        begin: called with the number of the worker when it starts.

    Raises:
        DataError: a process has ended unexpectedly.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        workers: int,
        slots: Slots,
        method: str | None,
        begin: Callable[[int], None] | None = None,
    ) -> None:
        self._context = get_context(method)
        self._workers: list[_Worker] = []
        self._slots = slots
        self._done: dict[int, DataError | None] = {}
        forks = self._context.get_start_method() == "fork"
        for number in range(workers):
            here, there = self._context.Pipe()
            # A fork copies the near ends of all pipes so far, which would keep them open after the parent has ended.
            near = [*(worker.pipe for worker in self._workers), here] if forks else []
            process = self._context.Process(  # type: ignore[attr-defined]
                target=_work,
                args=(there, near, list(sources), slots, begin, number, workers),
                daemon=True,
                name="rightbatch data worker",
            )
            try:
                with items_only():
                    process.start()
            except (AttributeError, TypeError, PicklingError) as error:
                _close(self._workers, os.getpid())
                raise DataError(
                    f"the data cannot be sent to worker processes ({error}): define functions and classes at the top "
                    "level of a module, or start the workers with method 'fork'"
                ) from error
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
                    slot, error, payload = worker.pipe.recv()
                    worker.waiting.discard(slot)
                    self._done[slot] = _error(*error) if error else None
                    if not error:
                        self._slots.arrived(slot, payload)
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


def _work(
    pipe: Connection,
    near: list[Connection],
    sources: list[Source],
    slots: Slots,
    begin: Callable[[int], None] | None,
    number: int,
    workers: int,
) -> None:
    """The main loop of a worker: run tasks until the pipe closes or the parent has ended."""
    for end in near:
        end.close()
    # Ctrl-C and SIGTERM are for the parent, which may need running tasks to finish its step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
    parent = parent_process()
    failed = None
    _introduce(number, workers, sources[0])
    try:
        if begin is not None:
            begin(number)
    except Exception as error:
        failed = f"worker_init_fn failed: {type(error).__name__}: {error}", traceback.format_exc()
    try:
        while True:
            while not pipe.poll(PARENT_EVERY_S):
                if parent is not None and not parent.is_alive():
                    return
            task = pipe.recv()
            pipe.send((task.slot, failed, None) if failed else (task.slot, *_fulfil(task, sources[task.source], slots)))
    except (EOFError, ConnectionError):
        return


def _introduce(number: int, workers: int, source: Any) -> None:
    """Let `torch.utils.data.get_worker_info()` return what it does in a worker of a `DataLoader`."""
    while not isinstance(source, map_style.DatasetSource) and hasattr(source, "source"):
        source = source.source
    dataset: Any = getattr(source, "dataset", None)
    torch_worker._worker_info = torch_worker.WorkerInfo(
        id=number, num_workers=workers, seed=torch.initial_seed() + number, dataset=dataset
    )


def _fulfil(task: Task, source: Source, slots: Slots) -> tuple[tuple[str, str] | None, bytes | None]:
    """Run a task; return the error message and traceback, or None, and what the slots send back."""
    which = "the samples"

    def begin(rows: list[int]) -> None:
        nonlocal which
        which = f"item {rows[0]}" if len(rows) == 1 else f"one of the items {rows[0]}, ..., {rows[-1]}"
        seed_item(task.seed, task.epoch, rows[0])

    map_style.begin_items = begin
    try:
        return None, slots.put(task.slot, source, task)
    except DataError as error:
        return (str(error), traceback.format_exc()), None
    except Exception as error:
        return (f"{which} failed: {type(error).__name__}: {error}", traceback.format_exc()), None


def seed_item(seed: int, epoch: int, row: int) -> None:
    """Seed the global generators of Python, NumPy and torch for one item of one epoch."""
    words = struct.unpack("<QQI", blake2b(struct.pack("<QQQ", seed, epoch, row), digest_size=20).digest())
    random.seed(words[0])
    np.random.seed(words[2])
    torch.default_generator.manual_seed(words[1] >> 1)
