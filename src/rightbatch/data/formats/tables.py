"""Tables in CSV and Parquet files: one column is the target, the others are the features."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ...errors import DataError, InputError, MissingExtraError
from ..arrays import TensorSource, array_source
from .columnar import PARQUET_SUFFIXES
from .columns import choose_target
from .labels import file_targets

Text = Literal["error", "drop", "ordinal"]
Missing = Literal["error", "drop", "mean"]


def table_source(path: Path, target: str | None, text: Text = "error", missing: Missing = "error") -> TensorSource:
    """Read a table; feature columns become float32 in their order, without scaling.

    Args:
        path: a `.csv`, `.csv.gz`, `.parquet` or `.pq` file with named columns.
        target: the column to predict; a text column is numbered in sorted order.
        text: columns that are not numeric: raise an error, drop the columns, or number their values in sorted
            order.
        missing: missing values: raise an error, drop the rows, or fill in the column's mean (in a text column: a
            separate number). Missing targets are never filled in.

    Raises:
        DataError: the file is unreadable, a column does not exist, or there are text columns, missing or invalid
            values.
        InputError: an unknown choice for text or missing.
        MissingExtraError: pandas, or pyarrow for Parquet, is not installed.
    """
    require_choices(text, missing)
    frame = _read(path)
    columns = [str(name) for name in frame.columns]
    frame.columns = columns
    target = choose_target(columns, target, str(path))
    if len(frame) == 0:
        raise DataError(f"{path} is empty: it has the columns {', '.join(columns)} and no rows")
    features = frame.drop(columns=target)
    notes: list[str] = []

    is_text = [name for name in features.columns if not _numeric(features[name])]
    if is_text and text == "error":
        raise DataError(
            f"{path}: the columns {', '.join(is_text)} are not numeric: drop them with text='drop', or number their "
            "values with text='ordinal'"
        )
    if is_text and text == "drop":
        features = features.drop(columns=is_text)
        notes.append(f"dropped the text columns {', '.join(is_text)}")
        is_text = []

    blank = features.isna()
    counts = {name: int(count) for name, count in blank.sum().items() if count}
    blank_targets = int(frame[target].isna().sum())
    if blank_targets and missing != "drop":
        raise DataError(
            f"{path}: the target {target} is missing in {blank_targets} rows: drop them with missing='drop'"
        )
    if counts and missing == "error":
        listed = ", ".join(f"{name} ({count})" for name, count in counts.items())
        raise DataError(
            f"{path}: values are missing in {listed}: drop those rows with missing='drop' or fill in the mean with "
            "missing='mean'"
        )
    targets = frame[target]
    if missing == "drop" and (counts or blank_targets):
        complete = ~(blank.any(axis=1) | targets.isna())
        features, targets = features[complete], targets[complete]
        notes.append(f"dropped {int((~complete).sum())} rows with missing values")

    for name in is_text:
        codes, names = _codes(features[name])
        features = features.assign(**{name: np.where(codes < 0, len(names), codes)})
    if is_text:
        notes.append(f"numbered the values of {', '.join(is_text)}")
    if features.shape[1] == 0:
        raise DataError(f"{path}: there are no feature columns besides the target {target}")
    x = features.astype(np.float64)
    if missing == "mean" and counts:
        x = x.fillna(x.mean())
        notes.append(f"missing values filled in: {', '.join(counts)}")
    y, target_notes = _targets(targets)
    try:
        with np.errstate(over="ignore"):  # float32 overflow becomes infinite, and raises below
            values = x.to_numpy(np.float32)
        return array_source(values, y, (*notes, *target_notes))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def require_choices(text: str, missing: str) -> None:
    """Raise on unknown choices.

    Raises:
        InputError: an unknown choice for text or missing.
    """
    for name, given, allowed in (("text", text, get_args(Text)), ("missing", missing, get_args(Missing))):
        if given not in allowed:
            raise InputError(f"{name}={given!r} is not supported: use one of {', '.join(allowed)}")


def _read(path: Path) -> Any:
    pandas = _optional("pandas")
    parquet = path.suffix in PARQUET_SUFFIXES
    if parquet:
        _optional("pyarrow")
    try:
        return pandas.read_parquet(path) if parquet else pandas.read_csv(path)
    except Exception as error:  # whatever readers and decompression raise; MemoryError
        kind = "Parquet" if parquet else "CSV"
        raise DataError(f"{path} cannot be read as a {kind} table: {error}") from error


def _optional(package: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        raise MissingExtraError(package, "tables", "Reading CSV and Parquet files") from error


def _numeric(column: Any) -> bool:
    return bool(column.dtype.kind in "iufb")


def _codes(column: Any) -> tuple[Any, list[str]]:
    """Number the values of a column in sorted order, missing ones -1."""
    categories = column.astype("string").astype("category").cat
    return categories.codes.to_numpy().astype(np.int64), [str(name) for name in categories.categories]


def _targets(column: Any) -> tuple[Any, tuple[str, ...]]:
    if not _numeric(column):
        return file_targets(column.astype(str).to_numpy(dtype=str))
    return file_targets(column.to_numpy(dtype=np.dtype(f"{column.dtype.kind}{column.dtype.itemsize}")))
