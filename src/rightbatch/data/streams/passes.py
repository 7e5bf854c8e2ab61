"""An iterable gone through again and again, and how to come back to a place in it."""

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
    """Hands out the items of an iterable, which is begun anew at its end.

    What it offers is used: `set_epoch(pass)` before each pass, that of a loader's data set too; and `state_dict()` with
    `load_state_dict(state)`, the protocol of torchdata and Hugging Face `datasets`, to come back to a place without
    going through all before it.

    Args:
        items: begun anew by `iter`, but for an iterator, which has one pass.
        name: for errors.
    """

    def __init__(self, items: Iterable[Any], name: str) -> None:
        self._items, self._name = items, name
        self._once = isinstance(items, Iterator)
        self._iterator: Iterator[Any] | None = None
        self._error: BaseException | None = None
        self._stateful = all(hasattr(items, name) for name in ("state_dict", "load_state_dict"))
        self._begun = False
        self._first: Any = UNKNOWN  # its own state before the first item
        self._loaded: tuple[int, int, Any] | None = None  # pass, items and the state of its own that was loaded there
        self.number = 0  # of the present pass
        self.handed_out = 0  # items of it

    def take(self, most: int, way: Callable[[Any], Any] | None = None) -> list[Any]:
        """Return the next items, at least one, fewer than `most` at the end of a pass and before an error.

        Args:
            most: items.
            way: what each goes through as it comes, before the next one is asked for.

        Raises:
            DataError: a pass without items, or the end of an iterator; else what the iterable raises, after which the
                same item is tried again.
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
            self._iterator = None  # a generator that has raised is over
            if not items:
                raise
            self._error = error  # the items before it come first
        self.handed_out += len(items)
        if items:
            return items
        if self._once:
            raise DataError(
                f"{self._name} has ended after {self.handed_out:,} items and cannot be begun anew: give an object that "
                "`iter` begins again, or train on fewer samples (epochs, length)"
            )
        if self.handed_out == 0:
            raise DataError(f"{self._name} is empty: at least one sample is needed")
        self.number, self.handed_out, self._iterator = self.number + 1, 0, None
        return self.take(most, way)

    def own_state(self) -> Any:
        """What the iterable says of its place; None if it says nothing, or what a checkpoint cannot hold."""
        if self._iterator is None or not self._stateful:
            return None
        state, file = self._items.state_dict(), io.BytesIO()  # type: ignore[attr-defined]
        try:
            torch.save(state, file)
            file.seek(0)
            return torch.load(file, weights_only=True)  # a copy: the stream may count on in its own
        except Exception:  # torch.load and pickle raise many kinds; all mean the same here
            return None

    def seek(self, number: int, handed_out: int, own: Any = None) -> None:
        """Come back to where so many items of a pass had been handed out.

        Args:
            number: of the pass.
            handed_out: items of it.
            own: what `own_state` said there; None goes through all items before.

        Raises:
            InputError: an iterator that is past that place, a pass with fewer items, or no way back behind a state.
        """
        passed = self.handed_out if self._once else 0
        if handed_out < passed:
            raise InputError(
                f"{self._name} is past item {handed_out:,} and cannot go back: give it anew, from its start"
            )
        if own is None and self._loaded is not None and self._first is UNKNOWN:
            raise InputError(
                f"{self._name} may go on from the state loaded last, and does not tell the one before its first item: "
                "give it anew"
            )
        self.number, self.handed_out, self._error, self._iterator = number, handed_out, None, None
        if own is not None:
            self._loaded = number, handed_out, own
        elif self._loaded is not None:
            self._loaded = number, 0, self._first
        self._begin(handed_out - passed)

    def _begin(self, missing: int) -> None:
        """Begin the present pass and go through its first items, or those behind the state that was loaded in it."""
        if self._loaded is not None and self._loaded[0] == self.number:
            # Again at each beginning: some go on from what was loaded last, some forget it.
            self._items.load_state_dict(deepcopy(self._loaded[2]))  # type: ignore[attr-defined]
            missing = self.handed_out - self._loaded[1]
        for each in (self._items, getattr(self._items, "dataset", None)):  # a loader leaves that to its caller
            if callable(set_epoch := getattr(each, "set_epoch", None)):
                set_epoch(self.number)
        with _undisturbed() if getattr(self._items, "num_workers", 0) else nullcontext():
            if self._stateful and not self._begun:
                with suppress(Exception):  # some know of no state before the first item
                    self._first = deepcopy(self._items.state_dict())  # type: ignore[attr-defined]
            iterator, self._begun = iter(self._items), True
        passed = sum(1 for _ in islice(iterator, missing))
        if passed < missing:
            raise InputError(
                f"{self._name} has fewer items than when the run was saved: {missing - passed:,} are missing. Give the "
                "same data, or start anew"
            )
        self._iterator = iterator


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Processes begun within do not hear Ctrl-C, which is for the parent: it may want their items to end its step."""
    if current_thread() is not main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
