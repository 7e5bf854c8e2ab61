"""Nests in memory: tensors, arrays, sparse matrices and texts with one first dimension."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import DataError
from .arrays import as_tensor, integer_range, native, require_finite
from .block_order import BlockOrder
from .nest import LazyRows, leaves, map_leaves, named_leaves, rows_of, take, values
from .order import Order
from .source import Source
from .tensor_rows import TensorRows


class NestSource(Source):
    """A nest whose leaves have one row per sample; a batch is a nest of the same form.

    Args:
        columns: a nest of tensors, `LazyRows` and lists.
        notes: conversions that were applied, as text.
    """

    def __init__(self, columns: Any, notes: tuple[str, ...] = ()) -> None:
        self.columns, self.notes = columns, notes
        self._length = rows_of(columns)
        self.describe_as(columns if type(columns) is tuple and len(columns) == 2 else take(columns, slice(0, 1)))
        self.y_range = integer_range(columns[1]) if self.labelled and isinstance(columns[1], Tensor) else None
        self._rows = [TensorRows(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves(columns)]
        flat = type(columns) in (dict, tuple) and all(isinstance(part, Tensor) for part in values(columns))
        self._flat = type(columns) if flat else None
        self._named = list(zip(columns, self._rows, strict=True)) if self._flat is dict else []

    def __len__(self) -> int:
        return self._length

    def fetch(self, indices: Tensor) -> Any:
        """Return the samples at `indices`."""
        return take(self.columns, indices)

    def fetch_interval(self, order: Order | BlockOrder, epoch: int, start: int, stop: int) -> Any:
        """Return the samples at positions start, ..., stop - 1 of an epoch of an order."""
        rows = order.view(epoch, start, stop)
        if self._flat is dict:
            return {name: part.take(rows) for name, part in self._named}
        if self._flat is tuple:
            return tuple([part.take(rows) for part in self._rows])
        index = torch.from_numpy(rows)
        following = iter(part.take(rows) if isinstance(part, TensorRows) else take(part, index) for part in self._rows)
        return map_leaves(lambda _: next(following), self.columns)

    def subset(self, indices: Tensor) -> NestSource:
        """Return a source with copies of the samples at `indices` and the same classes."""
        part = NestSource(
            map_leaves(
                lambda leaf: leaf.subset(indices) if isinstance(leaf, LazyRows) else take(leaf, indices), self.columns
            ),
            self.notes,
        )
        part.inherit(self)
        return part


class SparseRows(LazyRows):
    """The rows of a scipy sparse matrix; batches are dense.

    Args:
        matrix: in compressed sparse rows.
    """

    def __init__(self, matrix: Any) -> None:
        self._matrix, self.shape = matrix, matrix.shape
        self.dtype = torch.float32 if matrix.dtype.kind == "f" else torch.int64

    def fetch(self, rows: Tensor | slice) -> Tensor:
        """Return the rows as a dense tensor."""
        chosen = self._matrix[rows if isinstance(rows, slice) else rows.numpy()]
        return torch.from_numpy(chosen.toarray()).to(self.dtype)

    def subset(self, rows: Tensor) -> SparseRows:
        """Return the matrix with only these rows."""
        return SparseRows(self._matrix[rows.numpy()])


class MappedRows(LazyRows):
    """The rows of a memory-mapped array, read when they are fetched.

    Args:
        array: of numbers.
        rows: the rows used (default: all).
    """

    def __init__(self, array: NDArray[Any], rows: Tensor | None = None) -> None:
        self._array: NDArray[Any] = np.asarray(array)  # indexing a memmap object is several times slower
        self._rows = rows
        self.shape = (len(array) if rows is None else len(rows), *array.shape[1:])
        self.dtype = _converted(torch.from_numpy(native(np.array(array[:1]), "a memory map"))).dtype

    def fetch(self, rows: Tensor | slice) -> Tensor:
        """Return a copy of the rows."""
        chosen = rows if self._rows is None else self._rows[rows]
        return _converted(torch.from_numpy(native(_copied(self._array, chosen), "a memory map")))

    def subset(self, rows: Tensor) -> MappedRows:
        """Return the same array with only these rows."""
        return MappedRows(self._array, rows if self._rows is None else self._rows[rows])


def nest_source(data: Any, notes: tuple[str, ...] = ()) -> NestSource:
    """Check a nest of tensors and arrays and convert it to a source.

    Tensors are taken as they are. NumPy float64 and float16 become float32, int32 int64; other types stay. Lists of
    numbers become tensors; texts stay lists. Batches of sparse matrices are dense; memory maps are read batch by batch.

    Raises:
        DataError: different numbers of samples, no samples, unsupported types, NaN or infinite values.
    """
    names = iter([name or "the data" for name, _ in named_leaves(data)])
    columns = map_leaves(lambda leaf: _column(leaf, next(names)), data)
    source = NestSource(columns, notes)
    if len(source) == 0:
        raise DataError("the data are empty: provide at least one sample")
    for name, leaf in named_leaves(columns):
        if isinstance(leaf, Tensor) and leaf.numel():
            require_finite(leaf, name or "the tensor")
    return source


def is_sparse(leaf: object) -> bool:
    """Whether a leaf is a scipy sparse matrix or array."""
    return type(leaf).__module__.startswith("scipy.sparse") and hasattr(leaf, "tocsr")


def _column(leaf: Any, name: str) -> Any:
    if isinstance(leaf, Tensor):
        return as_tensor(leaf, name)
    if isinstance(leaf, LazyRows) or leaf is None:  # None: a field that is not used
        return leaf
    if isinstance(leaf, str | bytes):
        raise DataError(f"{name} is a single text: pass a list of texts, one per sample")
    if is_sparse(leaf):
        return SparseRows(leaf.tocsr())
    if isinstance(leaf, np.memmap):
        return MappedRows(leaf)
    if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "US":
        return leaf.tolist()
    if isinstance(leaf, list | tuple) and leaf and isinstance(leaf[0], str | bytes):
        return list(leaf)
    if str(getattr(leaf, "dtype", "")) in ("object", "str", "string") and len(leaf.shape) == 1:  # of NumPy, pandas
        values = leaf.tolist()
        if values and all(isinstance(value, str | bytes) for value in values):
            return values
    return _converted(as_tensor(leaf, name))


def _converted(values: Tensor) -> Tensor:
    if values.dtype in (torch.float64, torch.float16):
        return values.to(torch.float32)
    return values.to(torch.int64) if values.dtype == torch.int32 else values


def _copied(array: NDArray[Any], rows: Tensor | slice) -> NDArray[Any]:
    if isinstance(rows, slice):
        return np.array(array[rows])
    # Taking rows is faster than indexing, but would copy an array that is not contiguous and aligned as a whole.
    return array.take(rows.numpy(), 0) if array.flags.c_contiguous and array.flags.aligned else array[rows.numpy()]
