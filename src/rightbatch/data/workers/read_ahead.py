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
    """Blocks that a thread reads sequentially, each into its own slot.

    A caller that needs a block which is not started reads it itself, and a block that the thread fails to read counts
    as not read: callers wait for at most one block, and errors are raised as without the thread. The thread ends when
    all blocks are read, when its object is garbage-collected, or with the interpreter, after the current block. A
    forked process has no such thread, and finds the blocks read so far.

    There is no lock that Ctrl-C could leave held: single dict operations decide who reads a block, and a queue in C
    wakes the waiting caller. The thread is a daemon, since an interrupted start leaves one that never ends.

    Args:
        read: a bound method that reads a block into a slot of the memory; its object is held weakly.
        memory: the memory of the slots.
        slots: the slot of each block, in the order in which they are needed.
    """

    def __init__(self, read: Callable[[Memory, int, int], None], memory: Memory, slots: dict[int, int]) -> None:
        self.slots = slots
        self._memory = memory
        self._waiting = dict(reversed(slots.items()))  # the next block is last; whoever pops a block reads it
        self._done: dict[int, bool] = {}  # whether a finished block was read
        self._over: SimpleQueue[None] = SimpleQueue()  # an item for each block in `_done`, put after it
        self._abandoned = False
        self._process = os.getpid()
        self._thread = Thread(target=self._run, args=(WeakMethod(read),), name="rightbatch read-ahead", daemon=True)

    def start(self) -> None:
        """Start reading; separate from construction, so that an interrupted caller can abandon this object."""
        _STARTED.add(self)
        with suppress(RuntimeError):  # no more threads available: each block is read when needed
            self._thread.start()

    def take(self, block: int) -> tuple[int, bool]:
        """Return a block's slot, which now belongs to the caller, and whether it contains the block."""
        if self._waiting.pop(block, None) is None:  # the thread has started it
            while block not in self._done and os.getpid() == self._process:
                self._over.get()
        return self.slots.pop(block), self._done.get(block, False)

    def stop(self) -> dict[int, tuple[int, bool]]:
        """Start no other block, and take all remaining ones."""
        self.abandon()
        return {block: self.take(block) for block in list(self.slots)}

    def abandon(self) -> None:
        """Start no other block; do not wait for the current one."""
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
                pass  # the caller that needs the block reads it again and gets the error
            finally:
                del method
                self._done[block] = done
                self._over.put(None)


_STARTED: WeakSet[ReadAhead[Any]] = WeakSet()


@atexit.register
def _end_all() -> None:
    for ahead in list(_STARTED):
        ahead.stop()
