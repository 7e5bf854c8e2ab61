"""Batches as intervals of positions in the order of the samples."""

from __future__ import annotations

from operator import index
from typing import Any, NamedTuple

import torch

from ..errors import InputError
from .block_order import BlockOrder
from .nest import to_device
from .order import require_positions
from .source import Source


class Interval(NamedTuple):
    """The positions start, ..., stop - 1 of one epoch: a batch, as recorded in the ledger."""

    epoch: int
    start: int
    stop: int

    @property
    def samples(self) -> int:
        """Number of samples in the interval."""
        return self.stop - self.start


class BatchStream:
    """A position in a source's order, from which batches of any size are taken.

    A source on slow storage has `block_ends`, the blocks in which it is read, and `window`, how many of them it caches:
    its samples are shuffled within that many blocks at a time (`BlockOrder`); other sources are shuffled completely.
    The next blocks are read ahead (`Source.prefetch`). A sequential source is not shuffled; it is rewound here, and
    discards samples that are no longer needed.

    Args:
        source: the samples.
        seed: seed of the order, 0 to 2⁶⁴ - 1.
        shuffle: False visits the samples in storage order.
        device: device for fetched tensors (default: that of the source).

    Raises:
        InputError: the source is empty or the seed out of range.
    """

    def __init__(
        self, source: Source, seed: int = 0, shuffle: bool = True, device: torch.device | str | None = None
    ) -> None:
        source.rewind()
        self.source = source
        self.order = source.order(seed, shuffle)
        self._n = self.order.n
        self.device = None if device is None else torch.device(device)
        self._pin = source.pin and self.device is not None and self.device.type == "cuda"
        self._epoch = 0
        self._position = 0
        self._read_to: tuple[int, int] | None = None  # epoch and window

    @property
    def epoch(self) -> int:
        """The epoch of the next batch."""
        return self._epoch

    @property
    def position(self) -> int:
        """Number of samples already taken from this epoch."""
        return self._position

    @property
    def remaining(self) -> int:
        """Number of samples left in this epoch, at least 1: taking the last one starts the next epoch."""
        return self._n - self._position

    def take(self, n: int) -> Interval:
        """Advance by n samples, or by the rest of the epoch if that is less.

        Returns:
            The interval; `fetch` returns its tensors, now or later.

        Raises:
            InputError: n is not a whole number of at least 1.
        """
        if type(n) is not int:
            try:
                n = index(n)
            except TypeError:
                raise InputError(f"the number of samples must be a whole number, got {n!r}") from None
        if n < 1:
            raise InputError(f"the number of samples must be at least 1, got {n}")
        epoch, start = self._epoch, self._position
        stop = start + n
        if stop < self._n:
            self._position = stop
        else:
            self._epoch, self._position, stop = epoch + 1, 0, self._n
        return Interval(epoch, start, stop)

    def fetch(self, interval: Interval) -> Any:
        """Return the samples of an interval without changing the position.

        Returns:
            x of shape (samples, *x_shape) and y of shape (samples, *y_shape), or another nest, on `device`.

        Raises:
            InputError: positions outside the epoch.
        """
        epoch, start, stop = interval
        if not (0 <= start <= stop <= self._n and epoch >= 0):
            require_positions(epoch, start, stop, self._n)
        order = self.order
        if start < stop and isinstance(order, BlockOrder):
            self._read_ahead(order, interval)
        batch = self.source.fetch_interval(order, epoch, start, stop)
        return batch if self.device is None else to_device(batch, self.device, self._pin)

    def _read_ahead(self, order: BlockOrder, interval: Interval) -> None:
        """Make the source read the next blocks ahead, once per window."""
        number = order.window_at(interval.epoch, interval.start)
        place = interval.epoch, number
        if self._read_to is None or place > self._read_to:  # not when trial steps restart a batch
            self._read_to = place
            self.source.prefetch(torch.from_numpy(order.blocks_from(interval.epoch, number)))

    def discard_consumed(self) -> None:
        """Free the samples before the current position; only loading a saved position can return to them."""
        self.source.discard_before(self._epoch, self._position)

    def seek(self, epoch: int, position: int) -> None:
        """Continue from a position of an epoch.

        Raises:
            InputError: the position does not exist.
        """
        if not (epoch >= 0 and 0 <= position < self.order.n):
            raise InputError(
                f"cannot seek to position {position} of epoch {epoch}: positions are 0 to {self.order.n - 1}, epochs "
                "start at 0"
            )
        self._epoch, self._position = epoch, position
        self._read_to = None

    def state_dict(self, place: tuple[int, int] | None = None) -> dict[str, Any]:
        """Return a position and the identity of the order as plain values; for streams see `IterableSource.state_dict`.

        Args:
            place: epoch and position (default: the current ones).
        """
        epoch, position = place or (self._epoch, self._position)
        state = {"epoch": epoch, "position": position, **self._identity}
        if self.source.sequential:
            state["stream"] = self.source.state_dict(epoch, position)
        return state

    @property
    def _identity(self) -> dict[str, Any]:
        """What a saved position must match."""
        return {"n": self.order.n, "seed": self.order.seed, "shuffle": self.order.shuffle, "blocks": self.order.mixing}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Return to a saved position.

        Raises:
            InputError: the state has another number of samples, seed or order.
        """
        needed = {"epoch", "position", *self._identity, *(["stream"] if self.source.sequential else [])}
        if missing := sorted(needed - state.keys()):
            raise InputError(f"the saved data position has no {', '.join(missing)}")
        for name, here in self._identity.items():
            if state[name] != here:
                raise InputError(
                    f"the saved data position has {name}={state[name]}, but these data have {name}={here}: use the "
                    "same data and seed, or start a new run"
                )
        self.seek(state["epoch"], state["position"])
        if self.source.sequential:
            self.source.load_state_dict(state["stream"], self._epoch, self._position)
