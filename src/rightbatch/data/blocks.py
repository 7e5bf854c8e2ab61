"""Sources read block by block: a few decoded blocks are in memory, the others on the disk."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from .source import Source

WINDOW_BYTES = 2**28


class BlockSource(Source):
    """Examples in blocks, the most recently used of which are kept decoded.

    The blocks kept lie in one tensor, so that a batch from any of them is one gather. As many blocks are mixed at a
    time as take 256 MiB; a block that takes more is read whole all the same.

    Args:
        rows: examples in each block, at least 1.
        x_shape: of one example.
        x_kept: type inputs are kept in.
        y_shape: of one example.
        y_dtype: type of the targets.
    """

    def __init__(
        self,
        rows: Sequence[int],
        x_shape: tuple[int, ...],
        x_kept: torch.dtype,
        y_shape: tuple[int, ...],
        y_dtype: torch.dtype,
    ) -> None:
        self.x_shape, self.x_dtype, self.y_shape, self.y_dtype = x_shape, x_kept, y_shape, y_dtype
        self.block_ends = np.cumsum(rows, dtype=np.int64)
        self._x_kept = x_kept
        self._largest = max(rows)
        self._block_bytes = self._largest * (prod(x_shape) * x_kept.itemsize + prod(y_shape) * y_dtype.itemsize)
        self.window = min(len(rows), max(1, WINDOW_BYTES // max(1, self._block_bytes) - 1))
        self._forget()

    @abstractmethod
    def _read(self, block: int) -> tuple[Tensor, Tensor]:
        """Return x and y of a block, of the kept types."""

    @property
    def kept_blocks(self) -> int:
        """Decoded blocks in memory, at most: those mixed, and the first of the next."""
        return min(len(self.block_ends), self.window + 1)

    def __len__(self) -> int:
        return int(self.block_ends[-1])

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_x", "_y", "_slots")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def _forget(self) -> None:
        self._x: Tensor | None = None
        self._y: Tensor | None = None
        self._slots: dict[int, int] = {}  # block: its place in memory, the least recently used first

    def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and y of the examples at `indices`, reading the blocks that are not in memory."""
        blocks = torch.searchsorted(torch.from_numpy(self.block_ends), indices, right=True)
        distinct, which = torch.unique(blocks, return_inverse=True)
        needed = distinct.tolist()
        if len(needed) <= self.kept_blocks:
            return self._gather(indices, which, needed)
        x = torch.empty((len(indices), *self.x_shape), dtype=self.x_dtype)
        y = torch.empty((len(indices), *self.y_shape), dtype=self.y_dtype)
        for start in range(0, len(needed), self.kept_blocks):
            stop = start + self.kept_blocks
            places = ((which >= start) & (which < stop)).nonzero().flatten()
            x[places], y[places] = self._gather(indices[places], which[places] - start, needed[start:stop])
        return x, y

    def _gather(self, indices: Tensor, which: Tensor, needed: list[int]) -> tuple[Tensor, Tensor]:
        """Fetch examples of few blocks; `which` says of each in which of those needed it is."""
        for block in needed:
            if block in self._slots:
                self._slots[block] = self._slots.pop(block)
        for block in needed:
            if block not in self._slots:
                self._load(block)
        # Row r of a block lies so much further in memory.
        shifts = torch.tensor([self._slots[block] * self._largest - self._start(block) for block in needed])
        rows = indices + shifts.to(torch.int64)[which]
        assert self._x is not None and self._y is not None
        return self._finish(self._x.index_select(0, rows)), self._y.index_select(0, rows)

    def _load(self, block: int) -> None:
        x, y = self._read(block)
        if self._x is None or self._y is None:
            kept = self.kept_blocks * self._largest
            try:
                self._x = torch.empty((kept, *self.x_shape), dtype=self._x_kept)
                self._y = torch.empty((kept, *self.y_shape), dtype=self.y_dtype)
            except (RuntimeError, MemoryError) as error:
                raise DataError(
                    f"there is no memory for {self.kept_blocks} decoded blocks of up to {self._largest:,} examples, "
                    f"{self.kept_blocks * self._block_bytes / 2**30:,.1f} GiB: write the data in smaller blocks"
                ) from error
        slot = len(self._slots)
        if slot == self.kept_blocks:
            slot = self._slots.pop(next(iter(self._slots)))
        self._x[slot * self._largest :][: len(x)] = x
        self._y[slot * self._largest :][: len(y)] = y
        self._slots[block] = slot

    def _start(self, block: int) -> int:
        return int(self.block_ends[block - 1]) if block else 0

    def _finish(self, x: Tensor) -> Tensor:
        """Turn kept inputs into fetched ones."""
        return x
