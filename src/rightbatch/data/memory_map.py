"""Arrays on disk, read row by row: sets larger than memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import DataError
from .arrays import byte_scale, input_type, integer_range, native, require_finite, require_lengths, target_type
from .source import Source

CHECKED_ROWS = 1024
CHECKED_BYTES = 2**26


class MemoryMapSource(Source):
    """A pair of memory-mapped arrays of which a batch reads only its own rows.

    Types follow the rules of arrays in memory. NaN and infinite numbers are looked for in at most 1,024 rows, spread
    evenly.

    Args:
        x: shape (n, *x_shape), a memory map or any array.
        y: shape (n, *y_shape), a memory map or any array.
        notes: what was done, in words.

    Raises:
        DataError: unequal lengths, no examples, types a model cannot be trained on, NaN or infinite numbers in those
            rows.
    """

    def __init__(self, x: NDArray[np.generic], y: NDArray[np.generic], notes: tuple[str, ...] = ()) -> None:
        # Views as plain arrays: indexing a memmap object costs several times as much.
        self._x, self._y = np.asarray(x), np.asarray(y)
        require_lengths(self._x.shape, self._y.shape)
        x_row, y_row = _tensor(self._x[[0]], "x"), _tensor(self._y[[0]], "y")
        self.x_shape, self.y_shape = tuple(x_row.shape[1:]), tuple(y_row.shape[1:])
        self.x_dtype, self.y_dtype = input_type(x_row.dtype, False), target_type(y_row.dtype, False)
        self._scale = byte_scale(x_row.ndim) if x_row.dtype == torch.uint8 else 1.0

        row_bytes = max(1, self._x.nbytes // len(self._x))
        checked = min(len(self._x), CHECKED_ROWS, max(1, CHECKED_BYTES // row_bytes))
        sample = torch.from_numpy(np.linspace(0, len(self._x) - 1, checked).astype(np.int64))
        where = "" if checked == len(self._x) else f" (a sample of {checked:,} of {len(self._x):,} rows)"
        for name, values in zip("xy", self.fetch(sample), strict=True):
            require_finite(values, name, where)
        self.y_range = None
        if not self.y_dtype.is_floating_point and self._y.nbytes <= CHECKED_BYTES:
            self.y_range = integer_range(_tensor(self._y.copy(), "y").to(self.y_dtype))
        self.notes = (*notes, f"read from disk as needed, {checked:,} rows checked for NaN")

    def __len__(self) -> int:
        return len(self._x)

    def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Read x and y of the examples at `indices`."""
        rows = indices.numpy()
        x, y = _tensor(self._x[rows], "x").to(self.x_dtype), _tensor(self._y[rows], "y").to(self.y_dtype)
        return (x.mul_(self._scale) if self._scale != 1.0 else x), y


def _tensor(copied: NDArray[np.generic], name: str) -> Tensor:
    return torch.from_numpy(native(copied, name))


def memory_map_source(x_path: Path, y_path: Path) -> MemoryMapSource:
    """Open a pair of `.npy` files without reading them into memory.

    Raises:
        DataError: a file that does not exist or is no array, or what MemoryMapSource refuses.
    """
    return MemoryMapSource(_open(x_path), _open(y_path))


def _open(path: Path) -> NDArray[np.generic]:
    if not path.is_file():
        raise DataError(f"{path} does not exist")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read as an array of numbers: {error}") from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path} holds several arrays: give one .npz path, or a pair of .npy paths")
    return array
