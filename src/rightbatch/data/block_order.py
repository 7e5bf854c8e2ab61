"""A shuffled order for slow storage: shuffled blocks, then shuffled samples within a few blocks at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .order import NO_EPOCH, ROUNDS, WINDOWS, Indices, Order, generator, require_positions

MIXED_WHOLE_SAMPLES = (
    2**17
)  # a larger window is mixed position by position, since drawing its permutation takes too long


@dataclass(frozen=True, slots=True)
class _Epoch:
    """The blocks in the order of one epoch, and where each window of them begins."""

    number: int
    blocks: Indices
    starts: Indices  # position at which window w begins; one more entry than windows


@dataclass(frozen=True, slots=True)
class _Window:
    """The blocks of one window, their ends within it, and the order of its samples."""

    blocks: Indices
    ends: Indices
    order: Order


@dataclass(frozen=True, slots=True, eq=False)
class BlockOrder:
    """Maps positions of an epoch to samples, each exactly once, so that few blocks are in use at a time.

    The blocks are reshuffled every epoch. The samples of each `window` consecutive blocks in that order are shuffled
    together, so a reader that caches `window` blocks reads each block once per epoch. One window over all blocks is a
    full shuffle; with several windows, samples of a block stay close to each other, so sorted data need a large window.

    Args:
        ends: increasing ends of the blocks: block k contains the samples ends[k - 1], ..., ends[k] - 1.
        seed: 0 to 2⁶⁴ - 1; seed and epoch determine the order.
        shuffle: False visits the samples in storage order.
        window: number of blocks whose samples are shuffled together.

    Raises:
        InputError: no samples, `ends` not increasing, or seed or window out of range.
    """

    ends: NDArray[np.int64]
    seed: int = 0
    shuffle: bool = True
    window: int = 16
    _sizes: Indices = field(init=False, repr=False)
    _outer: Order = field(init=False, repr=False)
    _epoch: _Epoch | None = field(default=None, init=False, repr=False)
    _windows: dict[int, _Window] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        ends = np.asarray(self.ends, np.int64)
        if ends.ndim != 1 or len(ends) == 0 or ends[0] < 1 or (np.diff(ends) < 1).any():
            raise InputError("the ends of blocks must increase, starting with at least 1: blocks cannot be empty")
        if self.window < 1:
            raise InputError(f"window must be at least 1 block, got {self.window}")
        object.__setattr__(self, "ends", ends)
        object.__setattr__(self, "_sizes", np.diff(ends, prepend=0))
        # The starts of the windows require the order of all blocks at once.
        object.__setattr__(self, "_outer", Order(len(ends), self.seed, self.shuffle, permute_below=len(ends)))

    @classmethod
    def even(cls, n: int, block: int, seed: int = 0, shuffle: bool = True, window: int = 16) -> BlockOrder:
        """Blocks of `block` samples; the last may be smaller.

        Raises:
            InputError: see `BlockOrder`.
        """
        if n < 1 or block < 1:
            raise InputError(f"n and block must be at least 1, got n={n} and block={block}")
        return cls(np.minimum(np.arange(block, n + block, block, dtype=np.int64), n), seed, shuffle, window)

    @property
    def n(self) -> int:
        """Samples of an epoch."""
        return int(self.ends[-1])

    @property
    def mixing(self) -> str:
        """How samples are shuffled; see `Order.mixing`."""
        ends = crc32(self.ends.astype("<i8").tobytes())
        return f"{self.window} of {len(self.ends)} blocks, {ends:08x}, by {ROUNDS} rounds above {MIXED_WHOLE_SAMPLES}"

    def indices(self, epoch: int, start: int, stop: int) -> Indices:
        """Return the samples at positions start, ..., stop - 1 of an epoch; see `Order.indices`.

        Raises:
            InputError: positions outside the epoch.
        """
        require_positions(epoch, start, stop, self.n)
        if not self.shuffle:
            return np.arange(start, stop, dtype=np.int64)
        current = self._in(epoch)
        number, parts = self.window_at(epoch, start), []
        while start < stop:
            begin, end = int(current.starts[number]), int(current.starts[number + 1])
            upto = min(stop, end)
            parts.append(self._of(current, number, start - begin, upto - begin))
            start, number = upto, number + 1
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    view = indices  # a copy, too

    def window_at(self, epoch: int, position: int) -> int:
        """Return the index of the window that contains a position of an epoch."""
        return int(np.searchsorted(self._in(epoch).starts, position, "right")) - 1

    def blocks_from(self, epoch: int, number: int) -> Indices:
        """Return the first sample of each block of a window and of the next, which may be that of the next epoch.

        Within a window they are in descending order, so that the read-ahead thread and a fetch, which reads missing
        blocks in ascending order, do not wait for each other.
        """
        current, at = self._in(epoch), number * self.window
        present, following = (
            current.blocks[at : at + self.window],
            current.blocks[at + self.window : at + 2 * self.window],
        )
        if not len(following):
            following = self._outer.indices(epoch + 1, 0, min(self.window, len(current.blocks)))
        blocks = np.append(np.sort(present)[::-1], np.sort(following)[::-1])
        return self.ends[blocks] - self._sizes[blocks]

    def _in(self, epoch: int) -> _Epoch:
        current = self._epoch
        if current is None or current.number != epoch:
            blocks = self._outer.indices(epoch, 0, len(self.ends))
            sizes = np.add.reduceat(self._sizes[blocks], np.arange(0, len(blocks), self.window))
            starts = np.append(0, np.cumsum(sizes))
            current = _Epoch(epoch, blocks, starts)
            object.__setattr__(self, "_epoch", current)
            self._windows.clear()
        return current

    def _of(self, current: _Epoch, number: int, start: int, stop: int) -> Indices:
        """The samples at these positions of a window."""
        window = self._windows.get(number)
        if window is None:
            blocks = current.blocks[number * self.window : (number + 1) * self.window]
            ends = np.cumsum(self._sizes[blocks])
            key = int(generator(self.seed, NO_EPOCH).advance(WINDOWS + number).random_raw())
            window = _Window(blocks, ends, Order(int(ends[-1]), key, True, MIXED_WHOLE_SAMPLES))
            if len(self._windows) == 2:  # trial steps restart a batch that crosses two windows
                del self._windows[next(iter(self._windows))]
            self._windows[number] = window
        places = window.order.indices(current.number, start, stop)
        which = np.searchsorted(window.ends, places, "right")
        return places - window.ends[which] + self.ends[window.blocks[which]]
