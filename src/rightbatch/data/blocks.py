"""Sources read block by block: a few decoded blocks are in memory, the others on the disk."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from .order import Indices
from .source import Source
from .workers.read_ahead import ReadAhead

WINDOW_BYTES = 2**28

Memory = tuple[Tensor, Tensor]


class BlockSource(Source):
    """Samples in blocks, some of which are kept decoded: those expected, and of others the most recently used.

    The blocks kept lie in one tensor, so that a batch from any of them is one gather. They take 256 MiB, one half for
    those that are mixed and one for those that come next, which a thread decodes meanwhile; if all blocks fit, all are
    mixed. Two blocks are kept however large they are.

    Args:
        rows: samples in each block, at least 1.
        x_shape: of one sample.
        x_kept: type inputs are kept in.
        y_shape: of one sample.
        y_dtype: type of the targets.
    """

    block_ends: Indices

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
        most = max(2, WINDOW_BYTES // max(1, self._block_bytes))
        self.window = len(rows) if len(rows) <= most else most // 2
        self._forget()

    @abstractmethod
    def _read(self, block: int) -> tuple[Tensor, Tensor]:
        """Return x and y of a block, of the kept types; called by two threads at a time."""

    @property
    def kept_blocks(self) -> int:
        """Decoded blocks in memory, at most: those mixed, and the next ones."""
        return min(len(self.block_ends), 2 * self.window)

    def __len__(self) -> int:
        return int(self.block_ends[-1])

    def __getstate__(self) -> dict[str, Any]:
        passing = ("_memory", "_free", "_coming", "_others", "_ahead")
        return {name: value for name, value in vars(self).items() if name not in passing}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def _forget(self) -> None:
        self._memory: Memory | None = None
        self._free = list(range(self.kept_blocks))  # places in memory
        # Blocks in memory and their places, the least recently used first.
        self._coming: dict[int, int] = {}
        self._others: dict[int, int] = {}
        self._ahead: ReadAhead[Memory] | None = None

    def expect(self, indices: Tensor) -> None:
        """Read ahead the blocks of these samples, as many as fit, and give up others first from now on.

        Args:
            indices: a sample of each block, first those needed first.
        """
        blocks = np.searchsorted(self.block_ends, indices.numpy(), "right").tolist()
        with self._whole_or_nothing():
            self._gather_read()
            held = self._coming | self._others
            expected = list(dict.fromkeys(blocks))[: self.kept_blocks]
            self._coming = {block: held.pop(block) for block in expected if block in held}
            self._others = held
            missing = [block for block in expected if block not in self._coming]
            if missing:
                memory = self._allocated()
                self._ahead = ReadAhead(self._load, memory, {block: self._room(self._coming) for block in missing})
                self._ahead.start()

    def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and y of the samples at `indices`, reading the blocks that are not in memory."""
        blocks = torch.searchsorted(torch.from_numpy(self.block_ends), indices, right=True)
        distinct, which = torch.unique(blocks, return_inverse=True)
        needed = distinct.tolist()
        with self._whole_or_nothing():
            if len(needed) <= self.kept_blocks:
                return self._gather(indices, which, needed)
            x = torch.empty((len(indices), *self.x_shape), dtype=self.x_dtype)
            y = torch.empty((len(indices), *self.y_shape), dtype=self.y_dtype)
            for start in range(0, len(needed), self.kept_blocks):
                stop = start + self.kept_blocks
                places = ((which >= start) & (which < stop)).nonzero().flatten()
                x[places], y[places] = self._gather(indices[places], which[places] - start, needed[start:stop])
            return x, y

    @contextmanager
    def _whole_or_nothing(self) -> Iterator[None]:
        """After an error, Ctrl-C among them, nothing in memory is taken for granted."""
        try:
            yield
        except BaseException:
            if self._ahead is not None:
                self._ahead.abandon()
            self._forget()
            raise

    def _gather(self, indices: Tensor, which: Tensor, needed: list[int]) -> tuple[Tensor, Tensor]:
        """Fetch samples of few blocks; `which` says of each in which of those needed it is."""
        x, y = memory = self._allocated()
        slots: dict[int, int] = {}
        for block in needed:
            for held in (self._coming, self._others):
                if block in held:
                    slots[block] = held[block] = held.pop(block)
        for block in needed:
            if block not in slots:
                slots[block] = self._have(memory, block, slots)
        # Row r of a block lies so much further in memory.
        shifts = torch.tensor([slots[block] * self._largest - self._start(block) for block in needed])
        rows = indices + shifts.to(torch.int64)[which]
        return self._finish(x.index_select(0, rows)), y.index_select(0, rows)

    def _have(self, memory: Memory, block: int, needed: Container[int]) -> int:
        """Bring a block into memory; return its slot."""
        if self._ahead is not None and block in self._ahead.slots:
            (slot, read), held = self._ahead.take(block), self._coming
        else:
            slot, read, held = self._room(needed), False, self._others
        if not read:
            self._load(memory, block, slot)
        held[block] = slot
        return slot

    def _room(self, needed: Container[int]) -> int:
        """A slot that is free, or whose block can go."""
        if self._free:
            return self._free.pop()
        for held in (self._others, self._coming):
            block = next(iter(held), None)
            if block is not None and block not in needed:  # where the first one is needed, all are
                return held.pop(block)
        assert self._ahead is not None
        self._free += [slot for slot, _ in self._ahead.stop().values()]
        return self._free.pop()

    def _gather_read(self) -> None:
        """Stop reading ahead; what has been read is kept."""
        if self._ahead is not None:
            for block, (slot, read) in self._ahead.stop().items():
                if read:
                    self._coming[block] = slot
                else:
                    self._free.append(slot)
            self._ahead = None

    def _load(self, memory: Memory, block: int, slot: int) -> None:
        for kept, part in zip(memory, self._read(block), strict=True):
            kept[slot * self._largest :][: len(part)] = part

    def _allocated(self) -> Memory:
        if self._memory is None:
            kept = self.kept_blocks * self._largest
            try:
                self._memory = (
                    torch.empty((kept, *self.x_shape), dtype=self._x_kept),
                    torch.empty((kept, *self.y_shape), dtype=self.y_dtype),
                )
            except (RuntimeError, MemoryError) as error:
                raise DataError(
                    f"there is no memory for {self.kept_blocks} decoded blocks of up to {self._largest:,} samples, "
                    f"{self.kept_blocks * self._block_bytes / 2**30:,.1f} GiB: write the data in smaller blocks"
                ) from error
        return self._memory

    def _start(self, block: int) -> int:
        return int(self.block_ends[block - 1]) if block else 0

    def _finish(self, x: Tensor) -> Tensor:
        """Turn kept inputs into fetched ones."""
        return x
