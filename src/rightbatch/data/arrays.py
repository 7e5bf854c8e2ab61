"""Tensors and arrays in memory, and the conversion of arrays to types a model can be trained on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import DataError
from .block_order import BlockOrder
from .order import Order
from .source import Source
from .tensor_rows import TensorRows

FLOAT_LIMIT_BYTES = 2**30
CHECK_AT_ONCE_BYTES = 2**24


class TensorSource(Source):
    """Two tensors in memory, one row per sample; a batch is one gather from each.

    Args:
        x: shape (n, *x_shape), on any device.
        y: shape (n, *y_shape), on the device of x.
        notes: conversions that were applied, as text.
    """

    def __init__(self, x: Tensor, y: Tensor, notes: tuple[str, ...] = ()) -> None:
        self.x, self.y, self.notes = x, y, notes
        self.x_shape, self.y_shape = tuple(x.shape[1:]), tuple(y.shape[1:])
        self.x_dtype, self.y_dtype = x.dtype, y.dtype
        self.y_range = integer_range(y)
        self._x_rows, self._y_rows = TensorRows(x), TensorRows(y)
        own = type(self)  # a subclass may fetch samples in its own way
        self._plain = own.fetch is TensorSource.fetch and own.fetch_epoch is Source.fetch_epoch

    def __len__(self) -> int:
        return len(self.x)

    def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and y of the samples at `indices`."""
        return self._x_rows.fetch(indices), self._y_rows.fetch(indices)

    def fetch_interval(self, order: Order | BlockOrder, epoch: int, start: int, stop: int) -> Any:
        """Return the samples at positions start, ..., stop - 1 of an epoch of an order."""
        if not self._plain:
            return super().fetch_interval(order, epoch, start, stop)
        rows = order.view(epoch, start, stop)
        return self._x_rows.take(rows), self._y_rows.take(rows)

    def subset(self, indices: Tensor) -> TensorSource:
        """Return a source with copies of the samples at `indices` and the same classes."""
        part = TensorSource(*TensorSource.fetch(self, indices), self.notes)
        part.inherit(self)
        return part


class ByteSource(TensorSource):
    """Inputs stored as bytes, a quarter of the memory of floats, and fetched as float32: x · scale + shift.

    Args:
        x: uint8, shape (n, *x_shape).
        y: shape (n, *y_shape).
        scale: factor.
        shift: added after scaling.
        notes: conversions that were applied, as text.
    """

    def __init__(self, x: Tensor, y: Tensor, scale: float, shift: float, notes: tuple[str, ...] = ()) -> None:
        super().__init__(x, y, notes)
        self.x_dtype = torch.float32
        self.scale, self.shift = scale, shift

    def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return x, scaled, and y of the samples at `indices`."""
        x, y = super().fetch(indices)
        return x.to(torch.float32).mul_(self.scale).add_(self.shift), y

    def subset(self, indices: Tensor) -> ByteSource:
        """Return a source with copies of the samples at `indices`, stored as bytes."""
        part = ByteSource(*TensorSource.fetch(self, indices), self.scale, self.shift, self.notes)
        part.inherit(self)
        return part


def array_source(x: object, y: object, notes: tuple[str, ...] = ()) -> TensorSource:
    """Check a pair of tensors, arrays or nested lists and convert it to a source.

    Inputs become float32, except float64 and half-precision tensors, which keep their type, and 32- and 64-bit
    integers, which become int64, since they are usually indices such as tokens. Byte arrays with at least two
    dimensions per sample are treated as images and scaled to 0..1. Integer and boolean targets become int64;
    floating-point targets are converted like inputs.

    Raises:
        DataError: different lengths, no samples, unsupported types, NaN or infinite values.
    """
    x_is_tensor, y_is_tensor = isinstance(x, Tensor), isinstance(y, Tensor)
    x, y = as_tensor(x, "x"), as_tensor(y, "y")
    require_lengths(tuple(x.shape), tuple(y.shape))
    if x.device != y.device:
        raise DataError(f"x is on {x.device} and y is on {y.device}: move both to the same device")
    y = y.to(target_type(y.dtype, y_is_tensor))
    require_finite(y, "y")
    if x.dtype == torch.uint8:
        scale = byte_scale(x.ndim)
        return byte_source(x, y, scale, 0.0, (*notes, "bytes scaled to 0..1") if scale != 1 else notes)
    x = x.to(input_type(x.dtype, x_is_tensor))
    require_finite(x, "x")
    return TensorSource(x, y, notes)


def byte_source(x: Tensor, y: Tensor, scale: float, shift: float, notes: tuple[str, ...]) -> TensorSource:
    """Convert bytes to floats if that takes at most 1 GiB; otherwise store bytes and convert each batch."""
    if 4 * x.numel() <= FLOAT_LIMIT_BYTES:
        return TensorSource(x.to(torch.float32).mul_(scale).add_(shift), y, notes)
    return ByteSource(x, y, scale, shift, (*notes, "stored as bytes, converted per batch"))


def as_tensor(values: object, name: str) -> Tensor:
    """Return a dense real tensor, sharing memory with `values` if possible.

    Raises:
        DataError: the values are complex, objects, text, dates, sparse or ragged.
    """
    if isinstance(values, Tensor):
        if values.layout != torch.strided:
            raise DataError(f"{name} is a sparse tensor ({values.layout}): pass {name}.to_dense()")
        if values.is_complex():
            raise DataError(
                f"{name} is complex ({values.dtype}): pass real numbers, such as torch.view_as_real({name})"
            )
        return values.detach()
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise DataError(
            f"{name} is a masked array with {int(np.ma.getmaskarray(values).sum()):,} masked values: replace them with "
            f"{name}.filled(value), or remove those samples"
        )
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise DataError(f"{name} is not a rectangular array ({error}): all samples must have the same shape") from error
    array = native(array, name)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def native(array: NDArray[np.generic], name: str) -> NDArray[np.generic]:
    """Return the array in native byte order and with strides that torch supports.

    Raises:
        DataError: torch has no equivalent type.
    """
    if array.dtype == object:
        raise DataError(
            f"{name} is an object array (dtype object, shape {array.shape}): convert it to numbers, with "
            f"{name}.astype(numpy.float32), or with numpy.stack({name}) if it contains one array per sample"
        )
    if array.dtype.kind == "c":
        raise DataError(f"{name} is complex ({array.dtype}): pass real numbers, such as {name}.real")
    if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
        raise DataError(f"{name} has dtype {array.dtype}: convert it to real numbers, such as float32 or int64")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return np.ascontiguousarray(array) if any(stride < 0 for stride in array.strides) else array


def input_type(dtype: torch.dtype, from_torch: bool) -> torch.dtype:
    """Return the type to which inputs of `dtype` are converted."""
    if dtype.is_floating_point:
        return dtype if from_torch else torch.float32
    return torch.int64 if dtype in (torch.int32, torch.int64) else torch.float32


def target_type(dtype: torch.dtype, from_torch: bool) -> torch.dtype:
    """Return the type to which targets of `dtype` are converted."""
    return input_type(dtype, from_torch) if dtype.is_floating_point else torch.int64


def byte_scale(dimensions: int) -> float:
    """Return the factor for a byte array with this many dimensions: images are scaled to 0..1, features are not."""
    return 1 / 255 if dimensions >= 3 else 1.0


def integer_range(y: Tensor) -> tuple[int, int] | None:
    """Return the smallest and the largest target; None for floats or an empty tensor."""
    if y.is_floating_point() or y.numel() == 0:
        return None
    low, high = torch.aminmax(y)
    return int(low), int(high)


def require_lengths(x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> None:
    """Raise unless both arrays have one row per sample, and equally many.

    Raises:
        DataError: scalars, different lengths, or no samples.
    """
    for name, shape in (("x", x_shape), ("y", y_shape)):
        if not shape:
            raise DataError(f"{name} is a scalar: its first dimension must be the samples")
    if x_shape[0] != y_shape[0]:
        raise DataError(f"x has {x_shape[0]} samples and y has {y_shape[0]}: the numbers must be equal")
    if math.prod(x_shape) == 0:
        raise DataError(f"the data are empty: x has shape {x_shape}; provide at least one sample with one feature")


def require_finite(values: Tensor, name: str, where: str = "") -> None:
    """Raise if there are NaN or infinite values.

    Raises:
        DataError: with the number of such values and the row of the first.
    """
    if not values.is_floating_point():
        return
    rows = values.reshape(len(values), -1)
    # In chunks that fit into the cache: a mask of the whole array would be written to memory and read back.
    rows_at_once = max(1, CHECK_AT_ONCE_BYTES // max(1, rows.shape[1] * rows.element_size()))
    bad, first = 0, -1
    for number, piece in enumerate(torch.split(rows, rows_at_once)):
        finite = piece.isfinite()
        if finite.all():
            continue
        if bad == 0:
            first = number * rows_at_once + int(finite.all(1).logical_not().nonzero()[0])
        bad += int(finite.logical_not().sum())
    if bad:
        raise DataError(
            f"{name}{where} has {bad} NaN or infinite {'value' if bad == 1 else 'values'}, the first in row {first}: "
            "remove those samples or replace the values"
        )
