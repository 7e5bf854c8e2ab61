"""The same few samples again and again, as statistics of the data are made from."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from .source import Source, SourceWrapper
from .streams.source import SAMPLE, SAMPLE_BYTES


class Sample(SourceWrapper):
    """Up to 4,096 samples of data read in blocks, drawn at random, always the same.

    They are read at the first fetch and kept where they take at most 64 MiB: read anew each time, they would push the
    blocks that are trained on out of memory, and hold training up. All are of the blocks that an epoch begins with.

    Args:
        source: the whole.
    """

    def __init__(self, source: Source) -> None:
        super().__init__(source, f"{SAMPLE:,} samples at most")
        self._indices = torch.from_numpy(source.order().indices(0, 0, min(len(source), SAMPLE)))
        each = prod(self.x_shape) * self.x_dtype.itemsize + prod(self.y_shape) * self.y_dtype.itemsize
        self._keeps = len(self._indices) * each <= SAMPLE_BYTES
        self._kept: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self._indices)

    def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and y of the samples at `indices` of this sample."""
        if not self._keeps:
            return self._source.fetch_epoch(self._indices[indices], 0, 0)
        if self._kept is None:
            self._kept = self._source.fetch_epoch(self._indices, 0, 0)
        x, y = self._kept
        return x[indices], y[indices]
