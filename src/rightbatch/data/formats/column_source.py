"""Parquet and Arrow files larger than memory, decoded in blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import DataError
from ..arrays import byte_scale, input_type, target_type
from ..blocks import BlockSource
from .columnar import ColumnarFile
from .columns import Decoder, Features, choose_target, holds_numbers, is_number, is_text, numbers, stored
from .labels import MOST_CLASSES, judge_numbers, numbered
from .tables import Missing, Text, require_choices

Array = NDArray[np.generic]


class FileBlock(NamedTuple):
    """A block of a file."""

    file: ColumnarFile
    block: int

    def read(self, columns: Sequence[str]) -> dict[str, Any]:
        return self.file.read(self.block, columns)

    @property
    def name(self) -> str:
        """Its name in messages."""
        return self.file.name(self.block)


class ColumnSource(BlockSource):
    """Tables on disk, read in blocks on demand.

    A single feature column of lists keeps its shape and is converted like an array; otherwise all columns of numbers
    and lists, in order, become one row of float32. Targets are interpreted as in a table in memory. Missing values and
    NaN raise an error when their block is read.

    Args:
        files: one or more, with the same columns.
        target: the column to predict.
        text: "drop" ignores columns that are not numeric; otherwise they raise an error.
        missing: must be "error", since the other choices need the whole table.
        classes: names of the classes, if the file has them.
        decoders: functions that convert columns of special types to arrays.
        notes: notes to start with, as text.

    Raises:
        DataError: the columns differ, the target does not exist, there are text columns, missing values or no rows, or
            `text` or `missing` is not supported.
    """

    def __init__(
        self,
        files: Sequence[ColumnarFile],
        target: str | None,
        text: Text = "error",
        missing: Missing = "error",
        classes: Sequence[str] | None = None,
        decoders: dict[str, Decoder] | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        first = files[0]
        require_choices(text, missing)
        if missing != "error":
            raise DataError(
                f"missing={missing!r} is not supported for {first.path}, which is read on demand: clean the data, or "
                "pass a single Parquet file that is small enough to be read completely"
            )
        for other in files[1:]:
            if other.schema.names != first.schema.names or other.schema.types != first.schema.types:
                raise DataError(f"{other.path} has the columns {_columns(other)}, {first.path} has {_columns(first)}")
        self._places = [FileBlock(file, block) for file in files for block, rows in enumerate(file.rows) if rows]
        if not self._places:
            raise DataError(f"{first.path} is empty: it has the columns {', '.join(first.schema.names)} and no rows")
        self._target = choose_target(first.schema.names, target, str(first.path))
        self._features, dropped = _features(first, self._target, text, decoders or {})
        self._targets = _Targets(self._places, first.schema.field(self._target).type, self._target, classes)

        smallest = min(self._places, key=lambda place: place.file.rows[place.block])
        x, y = self._decode(smallest)
        raw = torch.from_numpy(x[:1]).dtype
        self._scale = byte_scale(x.ndim) if raw == torch.uint8 else 1.0
        x_dtype = input_type(raw, False)
        cached = raw if raw == torch.uint8 else x_dtype
        rows = [place.file.rows[place.block] for place in self._places]
        super().__init__(rows, x.shape[1:], cached, y.shape[1:], torch.from_numpy(y[:1]).dtype)
        self.x_dtype, self.y_range = x_dtype, self._targets.range
        if self.cached_blocks == len(rows):
            order = "cached in memory"
        else:
            order = f"{self.window:,} shuffled together, {self.cached_blocks * self._block_bytes / 2**20:,.0f} MiB"
        kinds = first.block_name if len(rows) == 1 else first.block_names
        blocks = f"{len(rows):,} {kinds} of {len(files):,} file{'' if len(files) == 1 else 's'}"
        dropped_note = (f"dropped the text columns {', '.join(dropped)}",) if dropped else ()
        self.notes = (*notes, f"{blocks} read on demand, {order}", *dropped_note, *self._targets.notes)

    def _read(self, block: int) -> tuple[Tensor, Tensor]:
        place = self._places[block]
        x, y = self._decode(place)
        if x.shape[1:] != self.x_shape:
            raise DataError(
                f"{place.name}: features of shape {x.shape[1:]} instead of {self.x_shape}: shapes must be equal"
            )
        for name, values in (("the features", x), (f"the target {self._target}", y)):
            if values.dtype.kind == "f" and not (finite := np.isfinite(values)).all():
                row = int(np.argmin(finite.reshape(len(values), -1).all(1)))
                raise DataError(
                    f"{place.name}: {int((~finite).sum()):,} NaN or infinite values in {name}, the first in row {row} "
                    "of the block: remove those samples or replace the values"
                )
        return torch.from_numpy(x).to(self._x_cached), torch.from_numpy(y)

    def _finish(self, x: Tensor) -> Tensor:
        x = x.to(self.x_dtype)
        return x.mul_(self._scale) if self._scale != 1.0 else x

    def _decode(self, place: FileBlock) -> tuple[Array, Array]:
        block = place.read([*self._features.columns, self._target])
        with np.errstate(over="ignore", invalid="ignore"):  # float32 overflow becomes infinite, and raises later
            try:
                x = writeable(self._features.decode(block))
            except DataError as error:
                raise DataError(f"{place.name}: {error}. Clean the data first") from error
            return x, self._targets.decode(place, block)


class _Targets:
    """The interpretation of the target column, from one pass over it; for floats, the pass stops when it is clear.

    Text becomes classes, numbered in sorted order; for numbers see `judge_numbers`.
    """

    def __init__(self, places: Sequence[FileBlock], kind: Any, column: str, classes: Sequence[str] | None) -> None:
        self._column = column
        self._names: Array | None = None
        self._signs = False
        self.dtype = torch.float32
        self.range: tuple[int, int] | None = None
        self.notes: tuple[str, ...] = ()
        if classes is not None:
            self.dtype, self.range = torch.int64, (0, len(classes) - 1)
        elif is_text(kind):
            self._number_text(places)
        elif not holds_numbers(kind):
            raise DataError(f"{places[0].file.path}: the target {column} has type {kind}: it must be numeric or text")
        elif is_number(kind):
            self._judge_numbers(places, target_type(torch.from_numpy(np.zeros(1, kind.to_pandas_dtype())).dtype, False))
        elif not _floating(stored(kind)):
            self.dtype = torch.int64

    def decode(self, place: FileBlock, block: dict[str, Any]) -> Array:
        """Return the targets of a block.

        Raises:
            DataError: values are missing, or classes are out of range.
        """
        values = self._values(place, block)
        if self._names is not None:
            codes = np.searchsorted(self._names, values)
            codes[codes == len(self._names)] = 0
            if (self._names[codes] != values).any():
                raise DataError(f"{place.name} has changed since it was opened")
            return np.asarray(codes)
        if self._signs:
            return np.asarray(values == 1, np.int64)
        values = writeable(values.astype(np.float32 if self.dtype == torch.float32 else np.int64))
        if self.range is not None and not (values.min() >= self.range[0] and values.max() <= self.range[1]):
            raise DataError(
                f"{place.name}: the target {self._column} ranges from {values.min()} to {values.max()}; expected "
                f"{self.range[0]} to {self.range[1]}"
            )
        return values

    def _values(self, place: FileBlock, block: dict[str, Any] | None = None) -> Array:
        column = (block or place.read([self._column]))[self._column]
        if column.null_count:
            raise DataError(
                f"{place.name}: the target {self._column} is missing in {column.null_count:,} rows: drop them first"
            )
        if is_text(column.type):
            return np.asarray(column.to_numpy(zero_copy_only=False), str)
        try:
            return numbers(column)
        except DataError as error:
            raise DataError(f"{place.name}: the target {self._column}: {error}") from error

    def _number_text(self, places: Sequence[FileBlock]) -> None:
        names: set[str] = set()
        for place in places:
            names.update(np.unique(self._values(place)).tolist())
            if len(names) > MOST_CLASSES:
                raise DataError(
                    f"{place.file.path}: the target {self._column} has more than {MOST_CLASSES} distinct texts: "
                    "choose a column of classes or numbers"
                )
        self._names = np.array(sorted(names))
        self.dtype, self.range = torch.int64, (0, len(names) - 1)
        self.notes = (numbered(sorted(names)),)

    def _judge_numbers(self, places: Sequence[FileBlock], dtype: torch.dtype) -> None:
        self.dtype = dtype
        lows, highs, only_signs = [], [], True
        for place in places:
            values = self._values(place)
            lows.append(values.min().item())
            highs.append(values.max().item())
            only_signs = only_signs and bool(np.all((values == -1) | (values == 1)))
            if dtype.is_floating_point and not only_signs:
                return  # a quantity, whatever the rest
        low, high = min(lows), max(highs)
        meaning, self.notes = judge_numbers(low, high, only_signs, dtype.is_floating_point)
        self._signs = meaning == "signs"
        if self._signs:
            self.dtype, self.range = torch.int64, (0, 1)
        elif meaning == "classes":
            self.range = (int(low), int(high))
        elif not dtype.is_floating_point:
            self.dtype = torch.float32


def _features(
    file: ColumnarFile, target: str, text: Text, decoders: dict[str, Decoder]
) -> tuple[Features, tuple[str, ...]]:
    """Choose the feature columns; the second value contains the dropped ones."""
    chosen: dict[str, Decoder] = {}
    others = []
    for field in file.schema:
        if field.name == target:
            continue
        if field.name in decoders:
            chosen[field.name] = decoders[field.name]
        elif holds_numbers(field.type):
            chosen[field.name] = numbers
        else:
            others.append(field.name)
    if others and text != "drop":
        raise DataError(
            f"{file.path}: the columns {', '.join(others)} are not numeric: drop them with text='drop', or number "
            "their values beforehand"
        )
    if not chosen:
        raise DataError(f"{file.path}: no feature columns are left beside the target {target}")
    return Features(chosen), tuple(others)


def writeable(values: Array) -> Array:
    """Return a writeable array for torch, a copy if the values belong to Arrow."""
    return values if values.flags.writeable else values.copy()


def _floating(kind: Any) -> bool:
    while hasattr(kind, "value_type"):
        kind = stored(kind.value_type)
    return bool(np.dtype(kind.to_pandas_dtype()).kind == "f")


def _columns(file: ColumnarFile) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in file.schema)
