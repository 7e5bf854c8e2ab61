"""Parquet and Arrow files larger than memory: features and targets decoded block by block."""

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
        """What people call it."""
        return self.file.name(self.block)


class ColumnSource(BlockSource):
    """Tables on disk, of which a batch needs only the blocks it comes from.

    A single feature column of lists keeps its shape and follows the rules of arrays; else all columns of numbers and
    lists, in their order, become one row of float32. Targets mean what they mean in a table read whole. Missing values
    and NaN are refused when their block is read.

    Args:
        files: one or more, with the same columns.
        target: the column to predict.
        text: "drop" leaves out columns that are no numbers, else they are refused.
        missing: "error" only; what else there is needs the whole table.
        classes: names of the classes, where the file has them.
        decoders: what turns columns of special types into arrays.
        notes: what is known beforehand, in words.

    Raises:
        DataError: columns that differ, no such target, text, missing values, nothing to read, or another choice for
            `text` or `missing`.
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
                f"{first.path} is read as needed, and missing={missing!r} would have to see all of it first: mend the "
                "data beforehand, or give a single Parquet file that is small enough to be read whole"
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
        kept = raw if raw == torch.uint8 else x_dtype
        rows = [place.file.rows[place.block] for place in self._places]
        super().__init__(rows, x.shape[1:], kept, y.shape[1:], torch.from_numpy(y[:1]).dtype)
        self.x_dtype, self.y_range = x_dtype, self._targets.range
        if self.kept_blocks == len(rows):
            order = "kept in memory once read"
        else:
            order = f"{self.window:,} mixed at a time, {self.kept_blocks * self._block_bytes / 2**20:,.0f} MiB"
        kinds = first.block_name if len(rows) == 1 else first.block_names
        blocks = f"{len(rows):,} {kinds} of {len(files):,} file{'' if len(files) == 1 else 's'}"
        left_out = (f"dropped the text columns {', '.join(dropped)}",) if dropped else ()
        self.notes = (*notes, f"{blocks} read as needed, {order}", *left_out, *self._targets.notes)

    def _read(self, block: int) -> tuple[Tensor, Tensor]:
        place = self._places[block]
        x, y = self._decode(place)
        if x.shape[1:] != self.x_shape:
            raise DataError(f"{place.name}: features of shape {x.shape[1:]}, elsewhere {self.x_shape}: all need one")
        for name, values in (("the features", x), (f"the target {self._target}", y)):
            if values.dtype.kind == "f" and not (finite := np.isfinite(values)).all():
                row = int(np.argmin(finite.reshape(len(values), -1).all(1)))
                raise DataError(
                    f"{place.name}: {int((~finite).sum()):,} NaN or infinite values in {name}, the first in row {row} "
                    "of it: remove those samples or fill the values in"
                )
        return torch.from_numpy(x).to(self._x_kept), torch.from_numpy(y)

    def _finish(self, x: Tensor) -> Tensor:
        x = x.to(self.x_dtype)
        return x.mul_(self._scale) if self._scale != 1.0 else x

    def _decode(self, place: FileBlock) -> tuple[Array, Array]:
        block = place.read([*self._features.columns, self._target])
        with np.errstate(over="ignore", invalid="ignore"):  # what float32 cannot hold becomes infinite, and is refused
            try:
                x = writeable(self._features.decode(block))
            except DataError as error:
                raise DataError(f"{place.name}: {error}; mend the data beforehand") from error
            return x, self._targets.decode(place, block)


class _Targets:
    """What the target column means, found by going through it once; of floating numbers until one tells.

    Text becomes classes, numbered in sorted order; what numbers mean, `judge_numbers` tells.
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
            raise DataError(f"{places[0].file.path}: the target {column} is {kind}: numbers or text are needed")
        elif is_number(kind):
            self._judge_numbers(places, target_type(torch.from_numpy(np.zeros(1, kind.to_pandas_dtype())).dtype, False))
        elif not _floating(stored(kind)):
            self.dtype = torch.int64

    def decode(self, place: FileBlock, block: dict[str, Any]) -> Array:
        """Return the targets of a block that has been read.

        Raises:
            DataError: missing values, or classes out of range.
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
                f"{place.name}: the target {self._column} goes from {values.min()} to {values.max()}, known are "
                f"{self.range[0]} to {self.range[1]}"
            )
        return values

    def _values(self, place: FileBlock, block: dict[str, Any] | None = None) -> Array:
        column = (block or place.read([self._column]))[self._column]
        if column.null_count:
            raise DataError(
                f"{place.name}: the target {self._column} is missing in {column.null_count:,} rows: drop those "
                "beforehand"
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
                    f"{place.file.path}: the target {self._column} has more than {MOST_CLASSES} different texts: "
                    "choose a column of classes or of numbers"
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
                return  # a quantity, whatever follows
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
    """Choose the feature columns; the second value names those left out."""
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
            f"{file.path}: not numbers are the columns {', '.join(others)}: drop them with text='drop', or number "
            "their values beforehand"
        )
    if not chosen:
        raise DataError(f"{file.path}: no feature columns are left beside the target {target}")
    return Features(chosen), tuple(others)


def writeable(values: Array) -> Array:
    """Return an array that torch can take over, a copy where these are Arrow's own."""
    return values if values.flags.writeable else values.copy()


def _floating(kind: Any) -> bool:
    while hasattr(kind, "value_type"):
        kind = stored(kind.value_type)
    return bool(np.dtype(kind.to_pandas_dtype()).kind == "f")


def _columns(file: ColumnarFile) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in file.schema)
