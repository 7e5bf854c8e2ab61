"""What the training loop asks of data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError
from .block_order import BlockOrder
from .order import Indices, Order

NEEDED = ("x_shape", "x_dtype", "y_shape", "y_dtype")  # of every source


class Source(ABC):
    """Samples that can be fetched by index, in any sequence: the base of all sources, and of one's own.

    What a source can do beyond that it says by its methods; those here suit one whose samples are all as near.

    Args:
        x_shape: shape of one sample's input.
        x_dtype: type of the fetched inputs.
        y_shape: shape of one sample's target.
        y_dtype: type of the fetched targets; integers mean classes.
        y_range: smallest and largest integer target; None for floats, or where finding out would read everything.
        notes: what was done to the data on the way in, in words.
        loss: used where none is given; None goes by the type of the targets.
        block_ends: where each block ends that slow storage is read in; None where any sample is as near as any other.
        window: blocks that are kept in memory, and so mixed; see `BatchStream`.
        sequential: whether the samples come in one order only, each once; `fetch` then reaches the first few.
    """

    x_shape: tuple[int, ...]
    x_dtype: torch.dtype
    y_shape: tuple[int, ...]
    y_dtype: torch.dtype
    y_range: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()
    loss: Callable[[Tensor, Tensor], Tensor] | None = None
    block_ends: Indices | None = None
    window: int = 16
    sequential: bool = False

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and y of the samples at `indices` (int64, on the CPU), in that sequence."""

    def fetch_epoch(self, indices: Tensor, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        """Return x and y as one epoch of an order has them: a source that draws at random keys its draws by these.

        Args:
            indices: as for `fetch`.
            seed: of the order.
            epoch: of the order.
        """
        return self.fetch(indices)

    def order(self, seed: int = 0, shuffle: bool = True) -> Order | BlockOrder:
        """The order its samples are visited in.

        Args:
            seed: keys the order, 0 to 2⁶⁴ - 1.
            shuffle: False visits the samples as they are stored.

        Raises:
            InputError: an empty source or a seed out of range.
        """
        if self.block_ends is None:
            return Order(len(self), seed, shuffle)
        return BlockOrder(self.block_ends, seed, shuffle, self.window)

    def fetch_interval(self, order: Order | BlockOrder, epoch: int, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return x and y at positions start, ..., stop - 1 of an epoch of an order."""
        return self.fetch_epoch(torch.from_numpy(order.indices(epoch, start, stop)), order.seed, epoch)

    def prefetch(self, indices: Tensor) -> None:
        """Read ahead from slow storage what is about to be fetched, where that can be done.

        Args:
            indices: one sample of each block of those in `block_ends`, first those needed first.
        """
        return None

    def rewind(self) -> None:
        """Return to the first sample, where samples come one after another.

        Raises:
            InputError: that cannot be done.
        """
        return None

    def discard_before(self, epoch: int, position: int) -> None:
        """Drop what is held of positions before this one: they are not fetched again."""
        return None

    def sample(self) -> Source:
        """Samples that can be fetched by index, for statistics of the data: here all of them."""
        return self

    def state_dict(self, epoch: int, position: int) -> dict[str, Any]:
        """What leads back to a position, beside its number; here nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any], epoch: int, position: int) -> None:
        """Return to a saved position.

        Raises:
            InputError: that cannot be done.
        """
        return None

    @property
    def classes(self) -> int | None:
        """One more than the largest target, where targets are whole numbers from 0 and the largest is known."""
        return None if self.y_range is None or self.y_range[0] < 0 else self.y_range[1] + 1

    def describe(self) -> str:
        """One line for people: how many samples, their shapes and types, what was done to them."""
        x, y = (str(dtype).removeprefix("torch.") for dtype in (self.x_dtype, self.y_dtype))
        parts = [f"{len(self):,} samples", f"x {list(self.x_shape)} {x}", f"y {list(self.y_shape)} {y}"]
        if self.classes is not None:
            parts.append(f"{self.classes} classes")
        return "; ".join([", ".join(parts), *self.notes])


class SourceWrapper(Source):
    """A source that has its samples from another one.

    Args:
        source: the other one.
        note: what this one is, in words.
    """

    def __init__(self, source: Source, note: str) -> None:
        self._source = source
        self.x_shape, self.x_dtype, self.y_shape, self.y_dtype = (
            source.x_shape,
            source.x_dtype,
            source.y_shape,
            source.y_dtype,
        )
        self.y_range, self.loss, self.notes = source.y_range, source.loss, (*source.notes, note)


def require_map_style(source: Source, use: str) -> None:
    """Refuse a stream where samples must be had in any sequence, and again.

    Raises:
        DataError: saying what for, and what to do.
    """
    if source.sequential:
        raise DataError(
            f"a stream cannot be {use}: its samples come once, one after another. Write them, or as many as are "
            "needed, to the disk with rightbatch.data.write_shards(samples, folder, most=...) and give the folder"
        )


def require_trainable(source: Source) -> None:
    """Refuse a source that nothing can be learnt or measured from.

    Raises:
        DataError: fewer than two samples.
    """
    if len(source) < 2:
        given = "no samples" if len(source) == 0 else "a single sample"
        raise DataError(f"the data have {given}: training needs at least 2, as noise is a difference between samples")
