"""A fixed subset of samples, for statistics of the data."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from .nest import take, tensors
from .source import Source, SourceWrapper
from .streams.source import SAMPLE, SAMPLE_BYTES


class Sample(SourceWrapper):
    """A fixed random subset of some of the samples.

    They are read at the first fetch and cached if they take at most 64 MiB; otherwise reading them would evict the
    blocks used for training and delay it. They come from the first blocks of an epoch.

    Args:
        source: all samples.
        most: number of samples, where there are as many; 4,096 with None.
    """

    def __init__(self, source: Source, most: int | None = None) -> None:
        most = SAMPLE if most is None else most
        super().__init__(source, f"at most {most:,} samples")
        self._indices = torch.from_numpy(source.order().indices(0, 0, min(len(source), most)))
        if source.pair:
            each = prod(self.x_shape) * self.x_dtype.itemsize + prod(self.y_shape) * self.y_dtype.itemsize
        else:
            each = sum(tensor.nbytes for tensor in tensors(source.fetch(self._indices[:1])))
        self._caches = source.equal and len(self._indices) * each <= SAMPLE_BYTES
        self._cached: Any = None

    def __len__(self) -> int:
        return len(self._indices)

    def fetch(self, indices: Tensor) -> Any:
        """Return the samples at `indices` of this subset."""
        if not self._caches:
            return self._source.fetch_epoch(self._indices[indices], 0, 0)
        if self._cached is None:
            self._cached = self._source.fetch_epoch(self._indices, 0, 0)
        return take(self._cached, indices)
