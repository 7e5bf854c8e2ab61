"""Blocks read by a thread while others are in use."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from threading import Condition, Thread, main_thread
from typing import Generic, TypeVar
from weakref import WeakMethod

Memory = TypeVar("Memory")


class ReadAhead(Generic[Memory]):
    """Blocks that a thread reads one after another, each into a slot of its own.

    Whoever needs a block that is not yet begun reads it himself, and a block the thread could not read is one not yet
    read: so nobody waits for more than one block, and errors arise where they do without the thread. It ends when all
    is read, when what it reads for is gone, and with the interpreter, each time after the block under way. A forked
    process has no such thread, and finds what had been read by then.

    Args:
        read: a bound method that reads a block into a slot of the memory; its object is held weakly.
        memory: where the slots are.
        slots: that of each block, first those needed first.
    """

    def __init__(self, read: Callable[[Memory, int, int], None], memory: Memory, slots: dict[int, int]) -> None:
        self.slots = slots
        self._memory = memory
        self._waiting = dict(reversed(slots.items()))  # the next one is the last
        self._reading: int | None = None
        self._done: set[int] = set()
        self._abandoned = False
        self._changed = Condition()
        self._process = os.getpid()
        self._thread = Thread(target=self._run, args=(WeakMethod(read),), name="rightbatch read-ahead")

    def start(self) -> None:
        """Begin to read; apart from construction, so that whoever is interrupted in between knows whom to abandon."""
        with suppress(RuntimeError):  # no more threads to be had: each block is read when needed
            self._thread.start()

    def take(self, block: int) -> tuple[int, bool]:
        """Return a block's slot, which is the caller's from now on, and whether the block is in it."""
        if os.getpid() == self._process:  # in another the lock may be held for ever, by a thread that is not there
            with self._changed:
                self._waiting.pop(block, None)
                while self._reading == block:
                    self._changed.wait()
        return self.slots.pop(block), block in self._done

    def stop(self) -> dict[int, tuple[int, bool]]:
        """Begin no other block, and take all that are left."""
        self.abandon()
        return {block: self.take(block) for block in list(self.slots)}

    def abandon(self) -> None:
        """Begin no other block; do not wait for the one under way."""
        self._abandoned = True

    def _run(self, read: WeakMethod[Callable[[Memory, int, int], None]]) -> None:
        while (block := self._begin()) is not None:
            method, done = read(), False
            try:
                if method is None:
                    return
                method(self._memory, block, self.slots[block])
                done = True
            except Exception:
                pass  # who needs the block reads it again, and is told
            finally:
                del method
                with self._changed:
                    self._done.update([block] if done else [])
                    self._reading = None
                    self._changed.notify()

    def _begin(self) -> int | None:
        with self._changed:
            if self._waiting and not self._abandoned and main_thread().is_alive():
                self._reading, _ = self._waiting.popitem()
            return self._reading
