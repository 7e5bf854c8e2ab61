"""Repeated passes over an iterable, and returning to a position in it."""

from __future__ import annotations

import io
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from copy import deepcopy
from itertools import islice
from threading import current_thread, main_thread
from typing import Any

import torch

from ...errors import DataError, InputError

UNKNOWN = object()


class Passes:
    """Returns the items of an iterable, which restarts at its end.

    It uses `set_epoch(pass)` before each pass, also of a loader's data set, and `state_dict()` with
    `load_state_dict(state)`, the protocol of torchdata and Hugging Face `datasets`, to return to a position without
    reading everything before it, if the iterable has these methods.

    Args:
        items: restarted by `iter`; an iterator has only one pass.
        name: its name in messages.
    """

    def __init__(self, items: Iterable[Any], name: str) -> None:
        self._items, self._name = items, name
        self._once = isinstance(items, Iterator)
        self._iterator: Iterator[Any] | None = None
        self._error: BaseException | None = None
        self._stateful = all(hasattr(items, name) for name in ("state_dict", "load_state_dict"))
        self._begun = False
        self._first: Any = UNKNOWN  # its state before the first item
        self._loaded: tuple[int, int, Any] | None = None  # pass, items and state that was loaded there
        self.number = 0  # the current pass
        self.handed_out = 0  # items of the current pass

    def take(self, most: int, way: Callable[[Any], Any] | None = None) -> list[Any]:
        """Return the next items, at least one, fewer than `most` at the end of a pass and before an error.

        Args:
            most: maximum number of items.
            way: function applied to each item before the next one is read.

        Raises:
            DataError: a pass has no items, or an iterator has ended; other exceptions of the iterable are passed on,
                and the same item is tried again.
        """
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        if self._iterator is None:
            self._begin(0 if self._once else self.handed_out)
        assert self._iterator is not None
        items: list[Any] = []
        try:
            items.extend(islice(self._iterator if way is None else map(way, self._iterator), most))
        except BaseException as error:
            self._iterator = None  # a generator that has raised is finished
            if not items:
                raise
            self._error = error  # the items before it come first
        self.handed_out += len(items)
        if items:
            return items
        if self._once:
            raise DataError(
                f"{self._name} ended after {self.handed_out:,} items and cannot restart: pass an iterable instead of "
                "an iterator, or train on fewer samples (epochs, length)"
            )
        if self.handed_out == 0:
            raise DataError(f"{self._name} is empty: provide at least one sample")
        self.number, self.handed_out, self._iterator = self.number + 1, 0, None
        return self.take(most, way)

    def own_state(self) -> Any:
        """The state of the iterable; None if it has none, or one that a checkpoint cannot contain."""
        if self._iterator is None or not self._stateful:
            return None
        state, file = self._items.state_dict(), io.BytesIO()  # type: ignore[attr-defined]
        try:
            torch.save(state, file)
            file.seek(0)
            return torch.load(file, weights_only=True)  # a copy, since the stream may change its own
        except Exception:  # torch.load and pickle raise many types
            return None

    def seek(self, number: int, handed_out: int, own: Any = None) -> None:
        """Return to the position after `handed_out` items of a pass.

        Args:
            number: the pass.
            handed_out: items of that pass.
            own: the value of `own_state` there; None reads all items before.

        Raises:
            InputError: an iterator is past that position, the pass has fewer items, or its initial state is unknown.
        """
        passed = self.handed_out if self._once else 0
        if handed_out < passed:
            raise InputError(f"{self._name} is past item {handed_out:,} and cannot go back: pass a fresh iterator")
        if own is None and self._loaded is not None and self._first is UNKNOWN:
            raise InputError(
                f"{self._name} may continue from the last loaded state, and its initial state is unknown: pass a fresh "
                "stream"
            )
        self.number, self.handed_out, self._error, self._iterator = number, handed_out, None, None
        if own is not None:
            self._loaded = number, handed_out, own
        elif self._loaded is not None:
            self._loaded = number, 0, self._first
        self._begin(handed_out - passed)

    def _begin(self, missing: int) -> None:
        """Start the current pass and skip its first items, or those after the loaded state."""
        if self._loaded is not None and self._loaded[0] == self.number:
            # At every start: some iterables continue from the last loaded state, others reset it.
            self._items.load_state_dict(deepcopy(self._loaded[2]))  # type: ignore[attr-defined]
            missing = self.handed_out - self._loaded[1]
        for each in (self._items, getattr(self._items, "dataset", None)):  # a loader leaves this to its caller
            if callable(set_epoch := getattr(each, "set_epoch", None)):
                set_epoch(self.number)
        with _undisturbed() if getattr(self._items, "num_workers", 0) else nullcontext():
            if self._stateful and not self._begun:
                with suppress(Exception):  # some have no state before the first item
                    self._first = deepcopy(self._items.state_dict())  # type: ignore[attr-defined]
            iterator, self._begun = iter(self._items), True
        passed = sum(1 for _ in islice(iterator, missing))
        if passed < missing:
            raise InputError(
                f"{self._name} has fewer items than when the run was saved: {missing - passed:,} are missing. Pass the "
                "same data, or start a new run"
            )
        self._iterator = iterator


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Processes started within ignore Ctrl-C, which is for the parent: it may need their items to finish its step."""
    if current_thread() is not main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
