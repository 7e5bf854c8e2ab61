"""Rows of a tensor in memory, copied in the way that is fastest for their number."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .order import Indices

MOST_ELEMENTS = 2**15  # of a batch that NumPy copies; torch copies more of them with several threads
NUMPY_TYPES = {np.dtype(kind) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "?")}


class TensorRows:
    """Copies rows of a tensor.

    A few small rows on the CPU are copied by NumPy: 32 rows of 100 floats take 6.8 µs, by `index_select` 7.9 µs, its
    index tensor included; 32 integers take 1.4 µs instead of 2.3 µs.

    Args:
        tensor: shape (n, ...), on any device.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._device = None if tensor.device.type == "cpu" else tensor.device
        self._shape, self._dtype = tuple(tensor.shape[1:]), tensor.dtype
        self._array = _array(tensor)
        self._most = -1 if self._array is None else MOST_ELEMENTS // max(1, tensor[:1].numel())
        # Results of products of floats may depend on the alignment of memory in the last bit: it is always torch's.
        self._integers = tensor.dim() == 1 and not tensor.is_floating_point()

    def __reduce__(self) -> tuple[type[TensorRows], tuple[Tensor]]:
        return TensorRows, (self._tensor,)

    def take(self, rows: Indices) -> Tensor:
        """Return the rows, which are not checked: those of an order are in range.

        Args:
            rows: int64, each in 0, ..., n - 1.
        """
        samples = len(rows)
        if self._array is None or samples > self._most:
            return self.fetch(torch.from_numpy(rows))
        if self._integers:
            return torch.from_numpy(self._array[rows])
        out = torch.empty(samples, *self._shape, dtype=self._dtype)
        self._array.take(rows, 0, out.numpy(), "clip")  # to raise, NumPy would copy twice
        return out

    def fetch(self, indices: Tensor) -> Tensor:
        """Return the rows at `indices` (int64, on the CPU).

        Raises:
            IndexError: an index is out of range.
        """
        return self._tensor.index_select(0, indices if self._device is None else indices.to(self._device))


def _array(tensor: Tensor) -> NDArray[Any] | None:
    """A view of the tensor from which NumPy takes rows without copying the rest; None if there is none."""
    if tensor.device.type != "cpu" or tensor.requires_grad or not tensor.is_contiguous():
        return None
    try:
        array = tensor.numpy()
    except (TypeError, RuntimeError):  # such as bfloat16, or another kind of tensor
        return None
    return array if array.flags.c_contiguous and array.flags.aligned and array.dtype in NUMPY_TYPES else None
