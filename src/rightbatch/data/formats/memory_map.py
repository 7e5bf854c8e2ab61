"""Arrays on disk, read by row: data sets larger than memory."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import DataError
from ..arrays import byte_scale, input_type, integer_range, native, require_finite, require_lengths, target_type
from ..source import Source
from .npy_rows import NpyRows

CHECKED_ROWS = 1024
CHECKED_BYTES = 2**26

Rows = NDArray[np.generic] | NpyRows


class MemoryMapSource(Source):
    """A pair of arrays on disk; a batch reads only its own rows.

    Types are converted like those of arrays in memory. At most 1,024 evenly spaced rows are checked for NaN and
    infinite values.

    Args:
        x: shape (n, *x_shape): files, a memory map or any array.
        y: shape (n, *y_shape): files, a memory map or any array.
        notes: conversions that were applied, as text.

    Raises:
        DataError: different lengths, no samples, unsupported types, or NaN or infinite values in the rows checked.
    """

    def __init__(self, x: Rows, y: Rows, notes: tuple[str, ...] = ()) -> None:
        # Views as plain arrays: indexing a memmap object is several times slower.
        self._x, self._y = (part if isinstance(part, NpyRows) else np.asarray(part) for part in (x, y))
        require_lengths(self._x.shape, self._y.shape)
        first = np.zeros(1, np.int64)
        x_row, y_row = _tensor(self._x[first], "x"), _tensor(self._y[first], "y")
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
            every = np.arange(len(self._y), dtype=np.int64)
            self.y_range = integer_range(_tensor(self._y[every], "y").to(self.y_dtype))
        whole = isinstance(self._x, NpyRows) and self._x.resident
        read = "read from disk" if whole else "read from disk on demand"
        self.notes = (*notes, f"{read}, {checked:,} rows checked for NaN")

    def __len__(self) -> int:
        return len(self._x)

    def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Read x and y of the samples at `indices`."""
        rows = indices.numpy()
        x, y = _tensor(self._x[rows], "x").to(self.x_dtype), _tensor(self._y[rows], "y").to(self.y_dtype)
        return (x.mul_(self._scale) if self._scale != 1.0 else x), y


def _tensor(copied: NDArray[np.generic], name: str) -> Tensor:
    return torch.from_numpy(native(copied, name))


def memory_map_source(x_path: Path, y_path: Path) -> MemoryMapSource:
    """Open a pair of `.npy` files without reading large ones into memory.

    Raises:
        DataError: a file does not exist or is not an array; see also `MemoryMapSource`.
    """
    return _named(x_path, NpyRows([x_path]), NpyRows([y_path]))


def has_shards(folder: Path) -> bool:
    """Whether a folder contains files such as x-00000.npy."""
    return any(_SHARD.fullmatch(path.name) for path in folder.glob("x*.npy"))


def shard_source(folder: Path) -> MemoryMapSource:
    """Open a folder of shards: x-00000.npy, y-00000.npy, x-00001.npy, y-00001.npy and so on.

    The separator after x or y is "-", "_" or "."; shards are sorted by name with numbers by value: x-2.npy before
    x-10.npy.

    Raises:
        DataError: a shard has no counterpart or another length than it, or another type or shape than the first.
    """
    names = {
        part: {m[2]: path for path in folder.glob("*.npy") if (m := _SHARD.fullmatch(path.name)) and m[1] == part}
        for part in "xy"
    }
    for here, there in ("xy", "yx"):
        for rest in sorted(names[here].keys() - names[there].keys(), key=natural):
            raise DataError(f"{names[here][rest]} has no counterpart {there}{rest}: each shard needs both files")
    rests = sorted(names["x"], key=natural)
    x, y = (NpyRows([names[part][rest] for rest in rests]) for part in "xy")
    for rest, x_rows, y_rows in zip(rests, x.lengths, y.lengths, strict=True):
        if x_rows != y_rows:
            raise DataError(f"{names['x'][rest]} has {x_rows} samples and y{rest} has {y_rows}: they must be equal")
    return _named(folder, x, y, (f"{len(rests)} shards",))


def _named(path: Path, x: NpyRows, y: NpyRows, notes: tuple[str, ...] = ()) -> MemoryMapSource:
    """Open the rows; errors name the path."""
    try:
        return MemoryMapSource(x, y, notes)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


_SHARD = re.compile(r"([xy])([-_.].+\.npy)")


def natural(name: str) -> list[tuple[int, str]]:
    """Return the sort key that orders numbers in names by value."""
    return [(int(digits), "") if digits else (-1, text) for digits, text in re.findall(r"(\d+)|(\D+)", name)]
