"""The order samples are visited in, as a pure function of the seed, the epoch and the position."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isqrt
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

Indices = NDArray[np.int64]

# Chi-square tests of position against index, and of two positions' indices against each other, reject 4 rounds at
# n = 70,000, pass 6 there and at 5,000,000; with 20,000 keys they reject 8 rounds at n = 5, pass 10 from 5 to 100.
ROUNDS = 6
SMALL, SMALL_ROUNDS = 2**16, 10
READ_AHEAD_SAMPLES = 2**14
Snapshot = tuple[int | None, int, Indices]  # epoch, first position, indices
NOTHING_KEPT: Snapshot = (None, 0, np.empty(0, np.int64))

NO_EPOCH = 2**64 - 1  # keys what is drawn at random outside of epochs, of which no run reaches so many
# Words of one generator from which on others than those of an order are drawn, further apart than any of them reach.
MEMBERS, WINDOWS, STRATA = (k * 2**128 for k in (1, 2, 3))


@dataclass(frozen=True, slots=True)
class Order:
    """Maps positions of an epoch to indices of samples; every epoch visits each sample exactly once.

    Up to `permute_below` samples an epoch's permutation is drawn whole and kept while the epoch lasts. Beyond, a keyed
    bijection computes any position on its own in constant memory. So any position is reached within 5 ms, however many
    samples there are (2 shared cores). The two give different orders: `permute_below` decides.

    Args:
        n: samples.
        seed: 0 to 2⁶⁴ - 1; together with the epoch it keys the order.
        shuffle: False visits the samples as they are stored.
        permute_below: the largest n whose permutation is held in memory, 8 bytes a sample.

    Raises:
        InputError: n, seed or permute_below out of range.
    """

    n: int
    seed: int = 0
    shuffle: bool = True
    permute_below: int = 2**18
    _kept: Snapshot = field(default=NOTHING_KEPT, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 1 <= self.n <= 2**62:
            raise InputError(f"an order needs between 1 and 2**62 samples, got n={self.n}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, Integral) or not 0 <= self.seed < 2**64:
            raise InputError(f"seed must be between 0 and 2**64 - 1 and whole, got {self.seed!r}")
        if self.permute_below < 0:
            raise InputError(f"permute_below must be 0 or more, got {self.permute_below}")

    def __reduce__(self) -> tuple[Any, ...]:
        return Order, (self.n, self.seed, self.shuffle, self.permute_below)

    @property
    def mixing(self) -> str:
        """How samples are mixed, beside n, seed and shuffle all that the order depends on."""
        return "all" if self.n <= self.permute_below else f"all, by {rounds(self.n)} rounds"

    def indices(self, epoch: int, start: int, stop: int) -> Indices:
        """Return the samples at positions start, ..., stop - 1 of an epoch.

        Args:
            epoch: 0 or more.
            start: first position, 0 or more.
            stop: one past the last position, at most n.

        Returns:
            int64 indices, shape (stop - start,), the caller's own.

        Raises:
            InputError: positions outside the epoch.
        """
        require_positions(epoch, start, stop, self.n)
        if not self.shuffle:
            return np.arange(start, stop, dtype=np.int64)
        kept_epoch, first, kept = self._kept
        if epoch != kept_epoch or start < first or stop > first + len(kept):
            if self.n <= self.permute_below:
                first, kept = 0, permutation(self.n, self.seed, epoch)
            else:
                # The fixed cost of the vectorised rounds is spread over the small batches that follow.
                first, last = start, min(self.n, max(stop, start + READ_AHEAD_SAMPLES))
                kept = bijection(np.arange(first, last, dtype=np.int64), self.n, self.seed, epoch)
            if len(kept) <= max(self.permute_below, READ_AHEAD_SAMPLES):
                self._keep(epoch, first, kept)
        return kept[start - first : stop - first].copy()

    def at(self, epoch: int, positions: Indices) -> Indices:
        """Return the samples at any positions of an epoch, in any sequence.

        Args:
            epoch: 0 or more.
            positions: int64, each in 0, ..., n - 1.

        Returns:
            int64 indices, shaped as `positions`.

        Raises:
            InputError: positions outside the epoch.
        """
        first, last = (int(positions.min()), int(positions.max())) if len(positions) else (0, -1)
        require_positions(epoch, first, last + 1, self.n)
        if not self.shuffle:
            return positions.copy()
        if self.n > self.permute_below:
            return bijection(positions, self.n, self.seed, epoch)
        kept_epoch, _, kept = self._kept
        if kept_epoch != epoch:
            kept = permutation(self.n, self.seed, epoch)
            self._keep(epoch, 0, kept)
        return kept[positions]

    def _keep(self, epoch: int, first: int, kept: Indices) -> None:
        object.__setattr__(self, "_kept", (epoch, first, kept))


def require_positions(epoch: int, start: int, stop: int, n: int) -> None:
    """Refuse positions that no epoch of n samples has.

    Raises:
        InputError: an epoch below 0, or not 0 ≤ start ≤ stop ≤ n.
    """
    if not (epoch >= 0 and 0 <= start <= stop <= n):
        raise InputError(f"positions {start} to {stop} of epoch {epoch} do not exist: {n} samples, epochs from 0")


def permutation(n: int, seed: int, epoch: int) -> Indices:
    """Draw a uniform permutation of 0, ..., n - 1 by sorting n random words.

    Each word carries its own index in its low bits, so that sorting the words sorts the indices: 4 million take 0.09 s,
    where shuffling takes 0.19 s and argsort 0.55 s (2 shared cores, NumPy 2.4). Only the raw stream of Philox is used,
    so the order is the same in every NumPy release. Ties among the high bits, of which 2²² samples have two on
    average, fall in order of index.

    Reference: J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011 (Philox).
    """
    index_bits = np.uint64(2 ** (n - 1).bit_length() - 1)
    words = generator(seed, epoch).random_raw(n)
    words &= ~index_bits
    words |= np.arange(n, dtype=np.uint64)
    words.sort()
    words &= index_bits
    return words.view(np.int64)


def bijection(positions: Indices, n: int, seed: int, epoch: int) -> Indices:
    """Send positions to indices one to one, each on its own: a Feistel network with cycle walking.

    The network permutes 0, ..., h·w - 1, h = ⌈√n⌉ being the height and w = ⌈n/h⌉ the width of the smallest rectangle of
    about equal sides that holds n. A result of n or more is sent through again until it falls below n; as h·w < n + h
    that happens to one in √n. Following a permutation from inside a range until it returns to the range is itself one
    to one.

    Args:
        positions: int64, each in 0, ..., n - 1.
        n: samples, 1 to 2⁶².
        seed: with `epoch`, the key.
        epoch: with `seed`, the key.

    Returns:
        int64 indices, shaped as `positions`.

    Reference: J. Black, P. Rogaway, "Ciphers with arbitrary finite domains", 2002 (cycle walking, and the Feistel
    network over a rectangle). The round function is the 64-bit finaliser of A. Appleby's MurmurHash3, 2011; made for
    uniformity, not for secrecy.
    """
    keys = generator(seed, epoch).random_raw(rounds(n))
    height = isqrt(n - 1) + 1
    width = -(-n // height)
    values = encrypt(positions.astype(np.uint64), height, width, keys)
    outside = np.flatnonzero(values >= n)
    while len(outside):
        walked = encrypt(values[outside], height, width, keys)
        values[outside] = walked
        outside = outside[walked >= n]
    return values.view(np.int64)


def rounds(n: int) -> int:
    """Return the rounds of the network for n samples."""
    return SMALL_ROUNDS if n < SMALL else ROUNDS


def encrypt(values: NDArray[np.uint64], height: int, width: int, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Permute 0, ..., height·width - 1 by a Feistel network.

    A value is (left, right), left·width + right. In each round (left, right) becomes (right, left + F(right ⊕ key)),
    added modulo the range of left: height and width by turns.

    Args:
        values: each below height·width, at most 2⁶⁴.
        height: 1 to 2³².
        width: 1 to 2³².
        keys: one for each round; their number is even, so that height and width are in their places at the end.
    """
    here, there = np.uint64(height), np.uint64(width)
    left = values // there
    right = values - left * there
    mixed, spare = np.empty_like(values), np.empty_like(values)
    for key in keys:
        np.bitwise_xor(right, key, out=mixed)
        mixed ^= np.right_shift(mixed, np.uint64(33), out=spare)
        mixed *= np.uint64(0xFF51AFD7ED558CCD)
        mixed ^= np.right_shift(mixed, np.uint64(33), out=spare)
        mixed *= np.uint64(0xC4CEB9FE1A85EC53)
        # The finaliser's last xor-shift leaves the upper half as it is; times `here`, its upper half is below `here`.
        mixed >>= np.uint64(32)
        mixed *= here
        mixed >>= np.uint64(32)
        mixed += left
        # Modulo `here`: where there is nothing to take off, the difference wraps round to something huge.
        np.minimum(mixed, np.subtract(mixed, here, out=spare), out=mixed)
        left, right, mixed = right, mixed, left
        here, there = there, here
    return left * there + right


def generator(seed: int, epoch: int) -> np.random.Philox:
    """Return the counter-based generator of one epoch."""
    return np.random.Philox(key=np.array([seed, epoch], np.uint64))
