"""Collation of the items of torch data sets: pairs (x, y) or other nests of tensors, arrays, numbers and texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from ..errors import DataError
from .nest import aligned, is_container, map_leaves, with_parts

Collate = Callable[[list[Any]], Any]

_items_only: ContextVar[bool] = ContextVar("items_only", default=False)


@contextmanager
def items_only() -> Iterator[None]:
    """Within, sources are pickled without collate functions, which may be lambdas: the receiver only fetches items."""
    token = _items_only.set(True)
    try:
        yield
    finally:
        _items_only.reset(token)


class Collation:
    """Collates items whose tensors have equal shapes. Python floats and NumPy float64 become float32.

    Tensors, arrays, numbers and lists of numbers are stacked, texts and other objects are listed. Integer targets of
    pairs (x, y) become int64.

    Args:
        name: name of the data set in messages.
        first: its first item; the others must be alike.
        exact: keep the types, as a `DataLoader` does.
    """

    def __init__(self, name: str, first: object, exact: bool = False) -> None:
        self._name, self._exact = name, exact
        self._form = map_leaves(lambda _: ..., first)
        self.pair = type(first) in (tuple, list) and len(first) == 2 and not any(map(_nested, first))  # type: ignore[arg-type, call-overload]
        self._narrow = [not isinstance(part, Tensor) for part in first] if self.pair else []  # type: ignore[attr-defined]

    def __call__(self, items: list[Any]) -> Any:
        """Return items, at least one, as one nest: for pairs, x (n, ...) and y (n, ...)."""
        try:
            if self._exact:
                return default_collate(items)
            return self._pairs(items) if self.pair else self._nests(items)
        except (TypeError, RuntimeError, ValueError, LookupError) as error:
            raise DataError(
                f"items of {self._name} cannot be collated: {error}. All must have the same form and shapes: resize or "
                "pad them with a transform, or pass collate=, a function from a list of items to a batch"
            ) from error

    def _pairs(self, items: list[Any]) -> tuple[Tensor, Tensor]:
        batch = default_collate(items)
        for name, part in zip("xy", batch, strict=True):
            if not isinstance(part, Tensor):
                raise DataError(
                    f"{name} of {self._name} cannot be converted to a tensor: it must be a tensor, an array or a number"
                )
        x, y = (
            part.to(torch.float32) if narrow and part.dtype == torch.float64 else part
            for part, narrow in zip(batch, self._narrow, strict=True)
        )
        return x, y.to(torch.int64) if not y.dtype.is_floating_point else y

    def _nests(self, items: list[Any]) -> Any:
        first = items[0]
        if isinstance(first, list):  # of numbers, too, which further inside would be one vector
            batch = with_parts(first, [map_leaves(_stacked, *column) for column in zip(*items, strict=True)])
        else:
            batch = map_leaves(_stacked, *items)
        try:
            return aligned(batch, self._form)  # keys in the same order in each batch
        except DataError:
            return batch  # of another form, which is for the caller to judge


def _nested(part: object) -> bool:
    return is_container(part) or isinstance(part, (str, bytes))


def _stacked(*values: Any) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        return torch.stack(values)
    if isinstance(first, (bool, int, float, complex, np.generic, np.ndarray, list, tuple)):
        array = np.array(values)
        if array.dtype.kind in "biuf":
            return torch.from_numpy(array.astype(np.float32) if array.dtype == np.float64 else array)
    return list(values)


class CollateFunction:
    """A caller's collate function; what it returns is taken as it is.

    Args:
        name: name of the data set in messages.
        collate: function from a list of items to a batch.
    """

    pair = False

    def __init__(self, name: str, collate: Collate) -> None:
        if not callable(collate):
            raise DataError(f"collate must be a function from a list of items to a batch, got {collate!r}")
        self._name, self._collate = name, collate

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_collate": None} if _items_only.get() else vars(self)

    def __call__(self, items: list[Any]) -> Any:
        """Return the batch."""
        try:
            return self._collate(items)
        except DataError:
            raise
        except Exception as error:
            raise DataError(
                f"collate failed on {len(items)} items of {self._name}: {type(error).__name__}: {error}"
            ) from error
