"""Parquet and Arrow files larger than memory, decoded in blocks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import DataError
from ...wording import setting
from ..arrays import byte_scale, input_type, target_type
from ..blocks import BlockSource
from ..prepared import PreparedSource, Standardizer
from ..preprocessing import Column, Kind, Preprocessing, TableLayout
from ..source import Source
from .columnar import ColumnarFile
from .columns import (
    Categories,
    Decoder,
    Features,
    choose_target,
    holds_numbers,
    is_number,
    is_text,
    number_dtype,
    numbers,
    require_named,
    stored,
    texts_of,
)
from .labels import MOST_CLASSES, judge_numbers, numbered, require_names
from .options import FileOptions
from .table_columns import MOST_ONE_HOT, PANDAS_INDEX, category, not_a_feature, not_numeric

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

    A single feature column of lists keeps its shape and is converted like an array; otherwise all columns, in order,
    become one row of float32. Text and targets are interpreted as in a table in memory. Missing values and NaN raise an
    error when their block is read.

    Args:
        files: one or more, with the same columns.
        options: see `as_source`; missing values cannot be dropped or filled in, since that needs the whole table.
        classes: names of the classes, if the file has them.
        decoders: functions that convert columns of special types to arrays.
        layout: how the training data are read, if these are to be read the same way.

    Raises:
        DataError: the columns differ, the target does not exist, there are columns that the options do not say how to
            read, missing values or no rows, or `options.missing` is not supported.
    """

    def __init__(
        self,
        files: Sequence[ColumnarFile],
        options: FileOptions,
        classes: Sequence[str] | None = None,
        decoders: dict[str, Decoder] | None = None,
        layout: Preprocessing | None = None,
    ) -> None:
        first = files[0]
        if options.missing != "error":
            raise DataError(
                f"missing={options.missing!r} is not supported for {first.path}, which is read on demand: clean the "
                "data, or pass a single Parquet file that is small enough to be read completely"
            )
        for other in files[1:]:
            if other.schema.names != first.schema.names or other.schema.types != first.schema.types:
                raise DataError(f"{other.path} has the columns {_columns(other)}, {first.path} has {_columns(first)}")
        self._places = [FileBlock(file, block) for file in files for block, rows in enumerate(file.rows) if rows]
        if not self._places:
            raise DataError(f"{first.path} is empty: it has the columns {', '.join(first.schema.names)} and no rows")
        known = None if layout is None else layout.table
        target = options.target if known is None else known.target
        self._target = choose_target(first.schema.names, target, str(first.path))
        if known is None:
            require_named(first.schema.names, options, str(first.path))
            columns, feature_notes = _features(self._places, self._target, options, decoders or {})
        else:
            columns, feature_notes = _known_features(first, known), []
        self._features = Features(columns)
        self._targets = _Targets(self._places, first.schema.field(self._target).type, self._target, classes, layout)

        smallest = min(self._places, key=lambda place: place.file.rows[place.block])
        x, y = self._decode(smallest)
        self._raw_dtype = raw = torch.from_numpy(x[:1]).dtype
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
        self.notes = (f"{blocks} read on demand, {order}", *feature_notes, *self._targets.notes)
        kinds_of = [_column(name, decoder) for name, decoder in columns.items()]
        scalar = all(
            is_number(first.schema.field(name).type) or is_text(first.schema.field(name).type) for name in columns
        )
        table = None
        if scalar:
            table = TableLayout(self._target, self._targets.meaning, tuple(kinds_of))
        self.layout = Preprocessing(self._targets.class_names, table)
        self.reopen = partial(column_source, files, options, classes, decoders)

    @property
    def preprocessing(self) -> Preprocessing:
        """How the columns are read."""
        return self.layout

    def _read(self, block: int) -> tuple[Tensor, Tensor]:
        place = self._places[block]
        x, y = self._decode(place)
        if x.shape[1:] != self.x_shape:
            raise DataError(
                f"{place.name}: features of shape {x.shape[1:]} instead of {self.x_shape}: shapes must be equal"
            )
        if torch.from_numpy(x[:1]).dtype != self._raw_dtype and torch.uint8 in (
            self._raw_dtype,
            torch.from_numpy(x[:1]).dtype,
        ):
            raise DataError(
                f"{place.name}: images of {x.dtype}, others are {self._raw_dtype}: convert them to one type"
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


def column_source(
    files: Sequence[ColumnarFile],
    options: FileOptions,
    classes: Sequence[str] | None = None,
    decoders: dict[str, Decoder] | None = None,
    layout: Preprocessing | None = None,
) -> Source:
    """Open tables on disk, see `ColumnSource`; columns of numbers are standardised unless the options say otherwise."""
    source = ColumnSource(files, options, classes, decoders, layout)
    table = source.layout.table
    if options.standardize is False or table is None or not any(table.scaled):
        return source
    return PreparedSource(source, source.layout, Standardizer(source, table.scaled), source.reopen)


class _Targets:
    """The interpretation of the target column, from one pass over it; for floats, the pass stops when it is clear.

    Text becomes classes, numbered in sorted order; for numbers see `judge_numbers`.
    """

    def __init__(
        self,
        places: Sequence[FileBlock],
        kind: Any,
        column: str,
        classes: Sequence[str] | None,
        layout: Preprocessing | None,
    ) -> None:
        self._column = column
        self._names: Array | None = None
        self._signs = False
        self.dtype = torch.float32
        self.range: tuple[int, int] | None = None
        self.notes: tuple[str, ...] = ()
        self.class_names: tuple[str, ...] | None = None
        if classes is not None:
            self.dtype, self.range, self.class_names = torch.int64, (0, len(classes) - 1), tuple(classes)
        elif layout is not None and layout.table is not None and layout.table.meaning == "quantity":
            if not is_number(kind):
                raise DataError(f"{places[0].file.path}: the target {column} must have numbers, as in training")
        elif is_text(kind):
            self._number_text(places, None if layout is None else layout.classes)
        elif not holds_numbers(kind):
            raise DataError(f"{places[0].file.path}: the target {column} has type {kind}: it must be numeric or text")
        elif layout is not None and layout.classes == ("-1", "1"):
            self._signs, self.dtype, self.range, self.class_names = True, torch.int64, (0, 1), layout.classes
        elif is_number(kind):
            dtype = number_dtype(kind)
            self._judge_numbers(places, target_type(torch.from_numpy(np.zeros(1, dtype)).dtype, False))
            if dtype.kind == "b":
                self.range, self.class_names = (0, 1), ("False", "True")
            elif self._signs:
                self.class_names = ("-1", "1")
        elif not _floating(stored(kind)):
            self.dtype = torch.int64

    @property
    def meaning(self) -> Literal["quantity", "numbers", "names"]:
        """Of the target."""
        if self.class_names is not None:
            return "names"
        return "quantity" if self.dtype.is_floating_point else "numbers"

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
                raise DataError(
                    f"{place.name}: the target {self._column} has the class "
                    f"{values[self._names[codes] != values][0]!r}, "
                    "which was not there when the training data were opened"
                )
            return np.asarray(codes)
        if self._signs:
            if not np.isin(values, (-1, 1)).all():
                raise DataError(f"{place.name}: the target {self._column} must be -1 or 1, as in training")
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

    def _number_text(self, places: Sequence[FileBlock], known: tuple[str, ...] | None) -> None:
        if known is None:
            found: set[str] = set()
            for place in places:
                found.update(np.unique(self._values(place)).tolist())
                if len(found) > MOST_CLASSES:
                    break
            rows = sum(place.file.rows[place.block] for place in places)
            require_names(sorted(found), rows, f"{places[0].file.path}: the target {self._column}")
            known = tuple(sorted(found))
            self.notes = (numbered(known),)
        self._names, self.class_names = np.array(known), known
        self.dtype, self.range = torch.int64, (0, len(known) - 1)

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
    places: Sequence[FileBlock], target: str, options: FileOptions, decoders: dict[str, Decoder]
) -> tuple[dict[str, Decoder], list[str]]:
    """Choose the feature columns and how they are decoded; the second value are notes.

    Raises:
        DataError: a column is neither numbers nor categories, or no column is left.
    """
    file = places[0].file
    chosen: dict[str, Decoder] = {}
    dropped, refused, notes = [], [], []
    for field in file.schema:
        name = field.name
        choice, named = options.text_of(name)
        if name == target:
            continue
        if PANDAS_INDEX.fullmatch(name) and not named:
            notes.append(f"dropped the column {name!r}, an index that pandas stored")
        elif choice == "drop" and (named or not (name in decoders or holds_numbers(field.type))):
            dropped.append(name)
        elif name in decoders:
            chosen[name] = decoders[name]
        elif holds_numbers(field.type):
            if named:
                raise DataError(
                    f"{file.path}: the column {name} has numbers, which only become categories in a table that is read "
                    f"completely: leave out {setting('text', choice, name)}"
                )
            chosen[name] = numbers
        elif not is_text(field.type):
            raise not_a_feature(name, str(field.type), file.path)
        elif choice == "error":
            refused.append(name)
        else:
            chosen[name] = categories = _categories(places, name, choice, named)
            count = len(categories.column.categories)
            notes.append(
                f"{'one-hot' if categories.column.kind == 'one-hot' else 'numbered'}: the {count} values of {name}"
            )
    if refused:
        raise not_numeric(refused, file.path)
    if dropped:
        notes.insert(0, f"dropped the columns {', '.join(dropped)}, as {setting('text', 'drop')} says")
    if not chosen:
        raise DataError(f"{file.path}: no feature columns are left beside the target {target}")
    return chosen, notes


def _categories(places: Sequence[FileBlock], name: str, choice: str, named: bool) -> Categories:
    """Read the categories of a text column; the pass ends when there are too many.

    Raises:
        DataError: there are too many, or they are numbers, dates or names of rows; or values are missing.
    """
    found: set[str] = set()
    rows = 0
    most = MOST_CLASSES if named or choice != "auto" else MOST_ONE_HOT
    for place in places:
        try:
            found.update(np.unique(texts_of(place.read([name])[name])).tolist())
        except DataError as error:
            raise DataError(f"{place.name}: column {name}: {error}. Clean the data first") from error
        rows += place.file.rows[place.block]
        if len(found) > most and not (len(found) == rows and rows < most):
            break
    kind: Kind = category(name, sorted(found), rows, choice, named, places[0].file.path)
    return Categories(Column(name, kind, tuple(sorted(found))))


def _known_features(file: ColumnarFile, table: TableLayout) -> dict[str, Decoder]:
    """Return the decoders of the columns of a layout.

    Raises:
        DataError: a column is missing, or has another type.
    """
    chosen: dict[str, Decoder] = {}
    for column in table.columns:
        if column.name not in file.schema.names:
            raise DataError(
                f"{file.path} has no column {column.name!r}, which the model was trained on; columns: "
                f"{', '.join(file.schema.names)}"
            )
        kind = file.schema.field(column.name).type
        if not (is_number(kind) if column.kind == "number" else is_text(kind)):
            wanted = "numbers" if column.kind == "number" else "text"
            raise DataError(
                f"{file.path}: the column {column.name} has type {kind}: it must have {wanted}, as in training"
            )
        chosen[column.name] = numbers if column.kind == "number" else Categories(column)
    return chosen


def _column(name: str, decoder: Decoder) -> Column:
    return decoder.column if isinstance(decoder, Categories) else Column(name, "number")


def writeable(values: Array) -> Array:
    """Return a writeable array for torch, a copy if the values belong to Arrow."""
    return values if values.flags.writeable else values.copy()


def _floating(kind: Any) -> bool:
    while hasattr(kind, "value_type"):
        kind = stored(kind.value_type)
    return number_dtype(kind).kind == "f"


def _columns(file: ColumnarFile) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in file.schema)
