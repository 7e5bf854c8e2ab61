"""Batches as intervals of one line of positions: take n samples now, another n next."""

from __future__ import annotations

from operator import index
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import InputError
from .block_order import BlockOrder
from .order import require_positions
from .source import Source


class Interval(NamedTuple):
    """The positions start, ..., stop - 1 of one epoch: what a batch is, and what the ledger keeps."""

    epoch: int
    start: int
    stop: int

    @property
    def samples(self) -> int:
        """How many samples the interval holds."""
        return self.stop - self.start


class BatchStream:
    """A place in a source's order, from which batches of any size are taken.

    A source on slow storage names the blocks it is read in, `block_ends`, and how many of them it keeps in memory,
    `window`: its samples are then mixed within so many blocks at a time (`BlockOrder`), those of others all with all.
    Blocks are read ahead (`Source.prefetch`). A source whose samples come one after another is never shuffled; it is
    rewound here, and drops what is not wanted again.

    Args:
        source: the samples.
        seed: keys the order, 0 to 2⁶⁴ - 1.
        shuffle: False visits the samples as they are stored.
        device: where fetched tensors go; None leaves them where the source keeps them.

    Raises:
        InputError: an empty source or a seed out of range.
    """

    def __init__(
        self, source: Source, seed: int = 0, shuffle: bool = True, device: torch.device | str | None = None
    ) -> None:
        source.rewind()
        self.source = source
        self.order = source.order(seed, shuffle)
        self.device = None if device is None else torch.device(device)
        self._epoch = 0
        self._position = 0
        self._read_to: tuple[int, int] | None = None  # epoch and window

    @property
    def epoch(self) -> int:
        """The epoch the next batch comes from."""
        return self._epoch

    @property
    def position(self) -> int:
        """Samples of this epoch already taken."""
        return self._position

    @property
    def remaining(self) -> int:
        """Samples left in this epoch, at least 1: the last one taken begins the next epoch."""
        return self.order.n - self._position

    def take(self, n: int) -> Interval:
        """Advance by n samples, or by what the epoch has left if that is fewer.

        Returns:
            The interval passed over; `fetch` turns it into tensors, now or later.

        Raises:
            InputError: n is not a whole number of at least 1.
        """
        try:
            n = index(n)
        except TypeError:
            raise InputError(f"a batch is a whole number of samples, got {n!r}") from None
        if n < 1:
            raise InputError(f"a batch has at least 1 sample, got {n}")
        start = self._position
        stop = min(start + n, self.order.n)
        taken = Interval(self._epoch, start, stop)
        if stop == self.order.n:
            self._epoch, self._position = self._epoch + 1, 0
        else:
            self._position = stop
        return taken

    def fetch(self, interval: Interval) -> tuple[Tensor, Tensor]:
        """Return the samples of an interval, leaving the position alone.

        Returns:
            x of shape (samples, *x_shape) and y of shape (samples, *y_shape), on `device`.

        Raises:
            InputError: positions outside the epoch.
        """
        require_positions(*interval, self.order.n)
        if isinstance(self.order, BlockOrder) and interval.samples:
            self._read_ahead(self.order, interval)
        x, y = self.source.fetch_interval(self.order, *interval)
        if self.device is None:
            return x, y
        return x.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True)

    def _read_ahead(self, order: BlockOrder, interval: Interval) -> None:
        """Have the source read the blocks that come next, once a window."""
        number = order.window_at(interval.epoch, interval.start)
        place = interval.epoch, number
        if self._read_to is None or place > self._read_to:  # not where trial steps begin a batch again
            self._read_to = place
            self.source.prefetch(torch.from_numpy(order.blocks_from(interval.epoch, number)))

    def discard_consumed(self) -> None:
        """Drop what is held of samples before the present position; only loading a saved one may return to them."""
        self.source.discard_before(self._epoch, self._position)

    def seek(self, epoch: int, position: int) -> None:
        """Continue from a position of an epoch.

        Raises:
            InputError: a place that does not exist.
        """
        if not (epoch >= 0 and 0 <= position < self.order.n):
            raise InputError(
                f"cannot seek to position {position} of epoch {epoch}: positions run from 0 to {self.order.n - 1}, "
                "epochs from 0"
            )
        self._epoch, self._position = epoch, position
        self._read_to = None

    def state_dict(self, place: tuple[int, int] | None = None) -> dict[str, Any]:
        """Return a place, and what it is a place in, as plain numbers; of a stream see `IterableSource.state_dict`.

        Args:
            place: epoch and position, where it is not the present one.
        """
        epoch, position = place or (self._epoch, self._position)
        state = {"epoch": epoch, "position": position, **self._identity}
        if self.source.sequential:
            state["stream"] = self.source.state_dict(epoch, position)
        return state

    @property
    def _identity(self) -> dict[str, Any]:
        """What a saved place must agree with."""
        return {"n": self.order.n, "seed": self.order.seed, "shuffle": self.order.shuffle, "blocks": self.order.mixing}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Return to a saved place.

        Raises:
            InputError: the state belongs to another number of samples, seed or shuffling.
        """
        needed = {"epoch", "position", *self._identity, *(["stream"] if self.source.sequential else [])}
        if missing := sorted(needed - state.keys()):
            raise InputError(f"the saved position of the data lacks {', '.join(missing)}")
        for name, here in self._identity.items():
            if state[name] != here:
                raise InputError(
                    f"the saved position belongs to data with {name}={state[name]}, this stream has {name}={here}: use "
                    "the same data and seed, or start anew"
                )
        self.seek(state["epoch"], state["position"])
        if self.source.sequential:
            self.source.load_state_dict(state["stream"], self._epoch, self._position)
