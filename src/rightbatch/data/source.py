"""The interface between the training loop and data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import DataError
from .order import Indices

NEEDED = ("x_shape", "x_dtype", "y_shape", "y_dtype")  # attributes of every source


class Source(ABC):
    """Base class of data sources: samples that can be fetched by index, in any order.

    Args:
        x_shape: shape of one sample's input.
        x_dtype: dtype of the fetched inputs.
        y_shape: shape of one sample's target.
        y_dtype: dtype of the fetched targets; integers are classes.
        y_range: smallest and largest integer target; None for floats, or if unknown without reading everything.
        notes: conversions that were applied to the data, as text.
        loss: the default loss; None selects it by the type of the targets.
        block_ends: ends of the blocks in which slow storage is read; None for random access.
        window: number of blocks cached in memory and shuffled together; see `BatchStream`.
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

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and y of the samples at `indices` (int64, on the CPU), in that order."""

    def fetch_epoch(self, indices: Tensor, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        """Return x and y for one epoch; a source with random draws derives them from seed and epoch.

        Args:
            indices: see `fetch`.
            seed: seed of the order.
            epoch: epoch of the order.
        """
        return self.fetch(indices)

    def prefetch(self, indices: Tensor) -> None:
        """Announce that samples on slow storage are needed soon, so that they can be read ahead.

        Args:
            indices: one sample of each block, in the order in which the blocks are needed.
        """
        return None

    @property
    def classes(self) -> int | None:
        """Number of classes, if targets are whole numbers from 0 and the largest is known."""
        return None if self.y_range is None or self.y_range[0] < 0 else self.y_range[1] + 1

    def describe(self) -> str:
        """One line of text: number of samples, shapes, types and conversions."""
        x, y = (str(dtype).removeprefix("torch.") for dtype in (self.x_dtype, self.y_dtype))
        parts = [f"{len(self):,} samples", f"x {list(self.x_shape)} {x}", f"y {list(self.y_shape)} {y}"]
        if self.classes is not None:
            parts.append(f"{self.classes} classes")
        return "; ".join([", ".join(parts), *self.notes])


class SourceWrapper(Source):
    """A source that wraps another source.

    Args:
        source: the wrapped source.
        note: a description of this source.
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


def require_trainable(source: Source) -> None:
    """Raise if a source is too small for training or measuring.

    Raises:
        DataError: fewer than two samples.
    """
    if len(source) < 2:
        given = "no samples" if len(source) == 0 else "a single sample"
        raise DataError(f"the data have {given}: provide at least 2, since noise is measured between samples")
