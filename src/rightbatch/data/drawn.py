"""Samples drawn by a sampler, some several times and some not at all in an epoch."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import DataError
from .block_order import BlockOrder
from .order import DRAWS, Indices, Order, generator, mixed_seed, require_positions
from .source import Source, SourceWrapper

LONGEST_EPOCH = 2**20  # draws, or 16 times the data set: what draws more is taken for endless


class Draws(ABC):
    """Which rows of a data set an epoch consists of, as a function of seed and epoch."""

    name: str

    @abstractmethod
    def __len__(self) -> int:
        """Number of draws in an epoch."""

    @abstractmethod
    def rows(self, seed: int, epoch: int) -> Indices:
        """Return the rows drawn in an epoch, in their order."""

    @abstractmethod
    def restricted(self, rows: Indices) -> Draws:
        """Return the draws of a data set with only these rows.

        Raises:
            DataError: the sampler only knows the whole data set.
        """


@dataclass(frozen=True, eq=False)
class WeightedDraws(Draws):
    """Rows drawn with probabilities proportional to weights.

    With replacement, each draw is the row at a uniform place in the cumulative weights. Without, rows are sorted by
    e / w, where e is exponential: the first ones are successive draws without replacement.

    Args:
        weights: (rows,), 0 or more.
        draws: number of draws in an epoch.
        replacement: whether a row may be drawn several times.

    Reference: P. Efraimidis, P. Spirakis, "Weighted random sampling with a reservoir", 2006 (without replacement).
    """

    weights: NDArray[np.float64]
    draws: int
    replacement: bool = True

    name = "weighted sampling"

    def __len__(self) -> int:
        return self.draws

    def rows(self, seed: int, epoch: int) -> Indices:
        """Return the rows drawn in an epoch."""
        if self.replacement:
            ends = np.cumsum(self.weights)
            places: Indices = np.searchsorted(ends, _uniform(self.draws, seed, epoch) * ends[-1], side="right")
            last: np.int64 = np.flatnonzero(self.weights)[-1]
            return np.minimum(places, last, dtype=np.int64)
        with np.errstate(divide="ignore"):
            keys = -np.log1p(-_uniform(len(self.weights), seed, epoch)) / self.weights
        order: Indices = np.argsort(keys, kind="stable")
        return order[: self.draws]

    def restricted(self, rows: Indices) -> WeightedDraws:
        """Return the draws of only these rows, the same share of them."""
        share = max(1, round(self.draws * len(rows) / len(self.weights)))
        return WeightedDraws(self.weights[rows], share, self.replacement)


@dataclass(frozen=True)
class UniformDraws(Draws):
    """Rows drawn alike: with replacement, or whole permutations one after the other, of which the last is cut.

    Args:
        n: number of rows.
        draws: number of draws in an epoch.
        replacement: whether draws are independent.
    """

    n: int
    draws: int
    replacement: bool = True

    name = "uniform sampling"

    def __len__(self) -> int:
        return self.draws

    def rows(self, seed: int, epoch: int) -> Indices:
        """Return the rows drawn in an epoch."""
        if self.replacement:
            return np.minimum(_uniform(self.draws, seed, epoch) * self.n, self.n - 1).astype(np.int64)
        whole = -(-self.draws // self.n)
        order = Order(self.n, seed)
        return np.concatenate([order.indices(epoch * whole + k, 0, self.n) for k in range(whole)])[: self.draws]

    def restricted(self, rows: Indices) -> UniformDraws:
        """Return the draws of only these rows, the same share of them."""
        return UniformDraws(len(rows), max(1, round(self.draws * len(rows) / self.n)), self.replacement)


class SamplerDraws(Draws):
    """Rows drawn by a user's own sampler, whose random numbers are seeded for each epoch.

    The global generators of Python, NumPy and torch are seeded, and its attribute `generator`, if it is torch's;
    `set_epoch` is called if there is one. Afterwards the generators are as before. A sampler without `set_epoch` may
    have a state of its own that changes with each pass: it is read once for each epoch, from the first one on.

    Args:
        sampler: an iterable of rows, or of lists of rows, which are joined.
        n: number of rows of the data set.
        dataset: the data set, which is not copied with the sampler.

    Raises:
        DataError: it does not end, or two copies of it draw different rows, such as by a generator that is seeded by
            the system.
    """

    def __init__(self, sampler: Iterable[Any], n: int, dataset: object = None) -> None:
        self._sampler, self._n, self._dataset = sampler, n, dataset
        self.name = type(sampler).__name__
        try:
            self._begin: dict[str, Any] | None = self._copy(vars(sampler)) if hasattr(sampler, "__dict__") else None
            trials: tuple[Any, Any] = self._copy(sampler), self._copy(sampler)
        except Exception:  # it cannot be copied
            self._begin, trials = None, (sampler, sampler)
        self._seed, self._next = -1, 0  # the seed and the epoch that the sampler itself draws next
        self._first, again = (self._read(trial, 0, 0) for trial in trials)
        self._length = len(self._first)
        if not np.array_equal(self._first, again):
            raise DataError(
                f"{self.name} drew other rows when it was read again, so that a run could neither resume nor use "
                "several processes: draw from the global generators of Python, NumPy or torch, or from its attribute "
                "generator, a torch.Generator, which are seeded for each epoch; or implement set_epoch(epoch)"
            )
        if self._length < 2:
            raise DataError(f"{self.name} draws {self._length} samples: provide at least 2")

    def __len__(self) -> int:
        return self._length

    def rows(self, seed: int, epoch: int) -> Indices:
        """Return the rows drawn in an epoch.

        Raises:
            DataError: another number of rows than in the first epoch, or rows out of range.
        """
        if (seed, epoch) == (0, 0):
            return self._first
        if callable(getattr(self._sampler, "set_epoch", None)) or self._begin is None:
            rows = self._read(self._sampler, seed, epoch)
        else:
            if seed != self._seed or epoch < self._next:
                if self._next:
                    vars(self._sampler).clear()
                    vars(self._sampler).update(self._copy(self._begin))
                self._seed, self._next = seed, 0
            while self._next <= epoch:
                rows = self._read(self._sampler, seed, self._next)
                self._next += 1
        if len(rows) != self._length:
            raise DataError(
                f"{self.name} drew {len(rows):,} samples in epoch {epoch} and {self._length:,} in the first: all "
                "epochs must have the same number"
            )
        return rows

    def restricted(self, rows: Indices) -> Draws:
        """Raise: the sampler draws from the whole data set."""
        raise DataError(f"{self.name} draws from all samples: pass validation data of their own instead of a fraction")

    def _copy(self, value: Any) -> Any:
        """A copy with the same data set, and the same tensors and arrays of it."""
        shared = [self._dataset, *getattr(self._dataset, "__dict__", {}).values()]
        return deepcopy(value, {id(each): each for each in shared})

    def _read(self, sampler: Iterable[Any], seed: int, epoch: int) -> Indices:
        with _seeded(mixed_seed(seed, epoch), sampler):
            if callable(set_epoch := getattr(sampler, "set_epoch", None)):
                set_epoch(epoch)
            most = max(LONGEST_EPOCH, 16 * self._n)
            drawn = list(islice(_joined(sampler), most + 1))
        if len(drawn) > most:
            raise DataError(f"{self.name} draws more than {most:,} samples in one epoch: it must end after an epoch")
        try:
            rows = np.array([int(row) for row in drawn], np.int64)
        except (TypeError, ValueError) as error:
            raise DataError(f"{self.name} must return row numbers: {error}") from error
        if len(rows) and not -self._n <= rows.min() <= rows.max() < self._n:
            raise DataError(f"{self.name} returned rows {rows.min()} to {rows.max()}: there are {self._n:,} samples")
        return np.where(rows < 0, rows + self._n, rows)


class DrawnSource(SourceWrapper):
    """The draws of a sampler as samples: each draw of an epoch is used exactly once.

    Positions, and so the ledger and resumes, count draws.

    Args:
        source: the data set.
        draws: which of its rows an epoch consists of.
    """

    shuffle = False

    def __init__(self, source: Source, draws: Draws) -> None:
        super().__init__(source, f"drawn by {draws.name}")
        self.draws, self.shuffle = draws, False
        self._cached: dict[tuple[int, int], Indices] = {}  # of two epochs: workers fetch from the next one, too

    def __len__(self) -> int:
        return len(self.draws)

    def rows(self, seed: int, epoch: int) -> Indices:
        """Return the rows of the data set that are drawn in an epoch."""
        if (seed, epoch) not in self._cached:
            drawn = self.draws.rows(seed, epoch)
            if len(self._cached) > 1:
                del self._cached[next(iter(self._cached))]
            self._cached[seed, epoch] = drawn
        return self._cached[seed, epoch]

    def first_samples(self) -> Any:
        """Return the draws of the first epoch."""
        return torch.from_numpy(self.rows(0, 0).copy())

    def fetch(self, indices: Tensor) -> Any:
        """Return the samples of some draws of the first epoch."""
        return self.fetch_epoch(indices, 0, 0)

    def fetch_epoch(self, indices: Tensor, seed: int, epoch: int) -> Any:
        """Return the samples of some draws of an epoch."""
        return self._source.fetch_epoch(torch.from_numpy(self.rows(seed, epoch)[indices.numpy()]), seed, epoch)

    def fetch_interval(self, order: Order | BlockOrder, epoch: int, start: int, stop: int) -> Any:
        """Return the samples at positions of an epoch."""
        return self._source.fetch_interval(_DrawOrder(len(self), order.seed, False, drawn=self), epoch, start, stop)


@dataclass(frozen=True)
class _DrawOrder(Order):
    """The rows drawn, as an order of the data set that may repeat them."""

    drawn: DrawnSource | None = None

    @property
    def mixing(self) -> str:
        return "drawn"

    def view(self, epoch: int, start: int, stop: int) -> Indices:
        assert self.drawn is not None
        require_positions(epoch, start, stop, self.n)
        return self.drawn.rows(self.seed, epoch)[start:stop]


def _joined(drawn: Iterable[Any]) -> Iterator[Any]:
    """The rows of a sampler, which returns single ones, also as tensors, or batches."""
    for rows in drawn:
        if isinstance(rows, Iterable) and getattr(rows, "ndim", None) != 0:
            yield from rows
        else:
            yield rows


def _uniform(count: int, seed: int, epoch: int) -> NDArray[np.float64]:
    """Numbers in [0, 1), the same in every NumPy release."""
    words = generator(seed, epoch).advance(DRAWS).random_raw(count) >> np.uint64(11)
    return words.astype(np.float64) * 2.0**-53


@contextmanager
def _seeded(seed: int, sampler: object) -> Iterator[None]:
    """Within, random numbers depend on the seed; afterwards all generators are as before."""
    own = getattr(sampler, "generator", None)
    own = own if isinstance(own, torch.Generator) else None
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    own_before = None if own is None else own.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed >> 1)
    if own is not None:
        own.manual_seed(seed >> 1)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
        if own is not None and own_before is not None:
            own.set_state(own_before)
