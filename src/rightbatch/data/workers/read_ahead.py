"""Blocks read by a thread while others are in use."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any, Generic, TypeVar
from weakref import WeakMethod, WeakSet

Memory = TypeVar("Memory")


class ReadAhead(Generic[Memory]):
    """Blocks that a thread reads one after another, each into a slot of its own.

    Whoever needs a block that is not yet begun reads it himself, and a block the thread could not read is one not yet
    read: so nobody waits for more than one block, and errors arise where they do without the thread. It ends when all
    is read, when what it reads for is gone, and with the interpreter, each time after the block under way. A forked
    process has no such thread, and finds what had been read by then.

    Nothing here is a lock that Ctrl-C could leave held for ever: single operations on a dict decide who reads a block,
    and a queue in C wakes who waits. The thread is a daemon, as an interrupted start leaves one that never ends.

    Args:
        read: a bound method that reads a block into a slot of the memory; its object is held weakly.
        memory: where the slots are.
        slots: that of each block, first those needed first.
    """

    def __init__(self, read: Callable[[Memory, int, int], None], memory: Memory, slots: dict[int, int]) -> None:
        self.slots = slots
        self._memory = memory
        self._waiting = dict(reversed(slots.items()))  # the next one is the last; who pops a block reads it
        self._done: dict[int, bool] = {}  # whether a block that is over was read
        self._over: SimpleQueue[None] = SimpleQueue()  # an item for each block in `_done`, put after it
        self._abandoned = False
        self._process = os.getpid()
        self._thread = Thread(target=self._run, args=(WeakMethod(read),), name="rightbatch read-ahead", daemon=True)

    def start(self) -> None:
        """Begin to read; apart from construction, so that whoever is interrupted in between knows whom to abandon."""
        _STARTED.add(self)
        with suppress(RuntimeError):  # no more threads to be had: each block is read when needed
            self._thread.start()

    def take(self, block: int) -> tuple[int, bool]:
        """Return a block's slot, which is the caller's from now on, and whether the block is in it."""
        if self._waiting.pop(block, None) is None:  # the thread has begun it
            while block not in self._done and os.getpid() == self._process:
                self._over.get()
        return self.slots.pop(block), self._done.get(block, False)

    def stop(self) -> dict[int, tuple[int, bool]]:
        """Begin no other block, and take all that are left."""
        self.abandon()
        return {block: self.take(block) for block in list(self.slots)}

    def abandon(self) -> None:
        """Begin no other block; do not wait for the one under way."""
        self._abandoned = True

    def _run(self, read: WeakMethod[Callable[[Memory, int, int], None]]) -> None:
        while not self._abandoned:
            try:
                block, slot = self._waiting.popitem()
            except KeyError:
                return
            method, done = read(), False
            try:
                if method is not None:
                    method(self._memory, block, slot)
                    done = True
            except Exception:
                pass  # who needs the block reads it again, and is told
            finally:
                del method
                self._done[block] = done
                self._over.put(None)


_STARTED: WeakSet[ReadAhead[Any]] = WeakSet()


@atexit.register
def _end_all() -> None:
    for ahead in list(_STARTED):
        ahead.stop()
