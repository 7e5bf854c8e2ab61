"""Conversion of the columns of a table to arrays of inputs and targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from ...wording import setting
from ..preprocessing import Column
from .columnar import arrow
from .options import FileOptions

Array = NDArray[np.generic]
Decoder = Callable[[Any], Array]


def is_number(kind: Any) -> bool:
    """Whether a pyarrow type is numeric, decimal or boolean."""
    types = arrow().types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind))


def number_dtype(kind: Any) -> np.dtype[Any]:
    """The NumPy type of a column of numbers of a pyarrow type; decimals are read as float64."""
    return np.dtype(np.float64 if arrow().types.is_decimal(kind) else kind.to_pandas_dtype())


def is_list(kind: Any) -> bool:
    """Whether a pyarrow type is a list."""
    types = arrow().types
    return bool(types.is_fixed_size_list(kind) or types.is_list(kind) or types.is_large_list(kind))


def is_text(kind: Any) -> bool:
    """Whether a pyarrow type is text, possibly dictionary-encoded."""
    types = arrow().types
    kind = kind.value_type if types.is_dictionary(kind) else kind
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def holds_numbers(kind: Any) -> bool:
    """Whether a pyarrow type is numeric or a (nested) list of numbers."""
    kind = stored(kind)
    return holds_numbers(kind.value_type) if is_list(kind) else is_number(kind)


def stored(kind: Any) -> Any:
    """Return the storage type of an extension type; other types unchanged."""
    return getattr(kind, "storage_type", kind)


def numbers(column: Any) -> Array:
    """Return a column of numbers, or of lists of equal length, as an array.

    Returns:
        Shape (rows,), or (rows, length, ...) for lists.

    Raises:
        DataError: missing values or lists of different lengths; the caller adds the location.
    """
    column = getattr(column, "storage", column)
    if column.null_count:
        raise DataError(f"{column.null_count:,} values are missing")
    if arrow().types.is_decimal(column.type):
        column = column.cast(arrow().float64())
    if not is_list(column.type):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    inner = numbers(column.flatten())
    if arrow().types.is_fixed_size_list(column.type):
        return inner.reshape(len(column), column.type.list_size, *inner.shape[1:])
    lengths = np.diff(column.offsets.to_numpy())
    if len(lengths) and (lengths != lengths[0]).any():
        raise DataError(f"lists have {lengths.min()} to {lengths.max()} numbers: all must have the same length")
    return inner.reshape(len(column), int(lengths[0]) if len(lengths) else 0, *inner.shape[1:])


class Categories:
    """The decoder of a column of text: one input for each category, or its number.

    Args:
        column: its categories and its kind.
    """

    def __init__(self, column: Column) -> None:
        self.column = column
        self._names = np.array(column.categories, str)

    def __call__(self, column: Any) -> Array:
        """Return shape (rows, categories) of 0 and 1, or (rows,).

        Raises:
            DataError: missing values, or a number for a category that is unknown; the caller adds the location.
        """
        texts = texts_of(column)
        codes = np.minimum(np.searchsorted(self._names, texts), len(self._names) - 1)
        known = self._names[codes] == texts
        if self.column.kind == "codes":
            if not known.all():
                raise DataError(f"the value {texts[~known][0]!r} is not among the categories of the training data")
            return np.asarray(codes)
        hot = np.zeros((len(texts), len(self._names)), np.float32)
        hot[np.flatnonzero(known), codes[known]] = 1
        return hot


def texts_of(column: Any) -> Array:
    """Return a column of texts as an array.

    Raises:
        DataError: missing values; the caller adds the location.
    """
    if column.null_count:
        raise DataError(f"{column.null_count:,} values are missing")
    return np.asarray(column.to_numpy(zero_copy_only=False), str)


class Features:
    """The input columns: a single list column keeps its shape and type, several columns become one row of float32.

    Args:
        decoders: functions that convert each column to an array, in the order of the columns.
    """

    def __init__(self, decoders: dict[str, Decoder]) -> None:
        self._decoders = decoders
        self._categories = any(isinstance(decoder, Categories) for decoder in decoders.values())

    @property
    def columns(self) -> list[str]:
        """Their names."""
        return list(self._decoders)

    def decode(self, block: dict[str, Any]) -> Array:
        """Return the inputs of a block.

        Returns:
            Shape (rows, *shape of the list) for a single column of lists, else (rows, numbers in all columns).

        Raises:
            DataError: a column is invalid; the caller adds the location.
        """
        parts = {}
        for name, decoder in self._decoders.items():
            try:
                parts[name] = decoder(block[name])
            except DataError as error:
                raise DataError(f"column {name}: {error}") from error
        if len(parts) == 1 and (only := next(iter(parts.values()))).ndim > 1 and not self._categories:
            return only
        flat = [part.reshape(len(part), prod(part.shape[1:])) for part in parts.values()]
        x = np.empty((len(flat[0]), sum(part.shape[1] for part in flat)), np.float32)
        start = 0
        for part in flat:
            x[:, start : start + part.shape[1]] = part
            start += part.shape[1]
        return x


def choose_target(names: Sequence[str], target: str | None, where: str) -> str:
    """Return the name of the target column.

    Raises:
        DataError: no target is given, or the column does not exist.
    """
    if target in names:
        return str(target)
    asked = f"name the column to predict ({setting('target')})" if target is None else f"there is no column {target!r}"
    close = get_close_matches(target or "", names, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise DataError(f"{where}: {asked}; columns: {', '.join(names)}{hint}")


def require_named(names: Sequence[str], options: FileOptions, where: str) -> None:
    """Raise unless every column that `text` names exists.

    Raises:
        DataError: one does not.
    """
    given = [] if isinstance(options.text, str) else [name for name in options.text if name]
    if lacking := [name for name in given if name not in names]:
        close = get_close_matches(lacking[0], names, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise DataError(
            f"{where}: {setting('text', options.text_of(lacking[0])[0], lacking[0])} names a column that does not "
            f"exist; columns: {', '.join(names)}{hint}"
        )
