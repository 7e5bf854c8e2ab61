"""Tables in memory: one column is the target, the others are the features."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...errors import DataError
from ...wording import counted, setting
from ..arrays import TensorSource, array_source, target_type
from ..prepared import PreparedSource, Standardizer
from ..preprocessing import Column, Preprocessing, TableLayout
from .columns import choose_target, require_named
from .options import FileOptions
from .table_columns import Series, as_number, as_text, feature_columns, leftover_columns, text_numbers
from .table_reading import read_table
from .table_targets import known_targets, new_targets

Floats = NDArray[np.float32]


def table_source(path: Path, options: FileOptions) -> PreparedSource:
    """Read a table completely: numbers become float32, text becomes categories, in the order of the columns.

    Args:
        path: a `.csv`, `.tsv`, `.parquet` or `.pq` file with named columns, text files also with `.gz`.
        options: see `as_source`.

    Raises:
        DataError: the file is unreadable, a column does not exist, or there are columns, or missing or invalid values,
            that the options do not say how to read.
        MissingExtraError: pandas, or pyarrow for Parquet, is not installed.
    """
    frame = read_table(path, options)
    target = choose_target(list(frame.columns), options.target, str(path))
    require_named(list(frame.columns), options, str(path))
    if len(frame) == 0:
        raise DataError(f"{path} is empty: it has the columns {', '.join(frame.columns)} and no rows")
    left_over, notes = leftover_columns(frame.drop(columns=target), path, options)
    frame = frame.drop(columns=left_over)
    features, number_notes = text_numbers(frame.drop(columns=target), path, options)
    chosen = feature_columns(features, path, options)
    features = features[[name for name in features.columns if name in chosen.kinds]]
    notes += [*number_notes, *chosen.notes]
    if features.shape[1] == 0:
        raise DataError(f"{path}: there are no feature columns besides the target {target}")
    features, targets, dropped = _complete(features, frame[target], path, options)
    if dropped:
        notes.append(f"dropped {dropped:,} of {counted(len(frame), 'row')} with missing values")
    columns = tuple(chosen.column(features[name]) for name in features.columns)
    for column in columns:
        if column.kind != "number":
            notes.append(
                f"{'one-hot' if column.kind == 'one-hot' else 'numbered'}: the {len(column.categories)} values of "
                f"{column.name}"
            )
    x, _ = encoded(features, columns, str(path), options.missing)
    found, meaning = new_targets(targets, f"{path}: the target {target}", options.decimal, dropped > 0)
    layout = TableLayout(
        target, meaning, columns, options.missing, options.separator, options.decimal, options.encoding
    )
    filled = [name for name in features.columns if features[name].isna().any()]
    if filled:
        notes.append(f"missing values filled in: {', '.join(filled)}")
    return _source(path, x, found.values, (*notes, *found.notes), Preprocessing(found.names, layout), options, ())


def reopened(path: Path, options: FileOptions, layout: Preprocessing) -> PreparedSource:
    """Read a table as another was read: the same columns by name, the same categories and classes.

    Raises:
        DataError: a column is missing, or values are, or a class is unknown.
    """
    table = layout.table
    assert table is not None
    frame = read_table(path, options)
    choose_target(list(frame.columns), table.target, str(path))
    features = known_features(frame, table, path, options)
    features, targets, dropped = _complete(features, frame[table.target], path, options)
    notes = (f"dropped {dropped:,} of {counted(len(frame), 'row')} with missing values",) if dropped else ()
    x, unknown = encoded(features, table.columns, str(path), options.missing)
    y = known_targets(targets, f"{path}: the target {table.target}", layout, options.decimal)
    return _source(path, x, y, notes, layout, options, (*notes, *unknown))


def known_features(frame: Any, table: TableLayout, path: Path, options: FileOptions) -> Any:
    """Return the columns of a layout, in its order.

    Raises:
        DataError: a column is missing, or is text where it must be numbers.
    """
    names = [column.name for column in table.columns]
    if lacking := [name for name in names if name not in frame.columns]:
        raise DataError(
            f"{path} has no column {', '.join(map(repr, lacking))}, which the model was trained on; columns: "
            f"{', '.join(frame.columns)}{_encoding_hint(options)}"
        )
    numbers = [column.name for column in table.columns if column.kind == "number"]
    parsed, _ = text_numbers(frame[numbers], path, options)
    for name in numbers:
        if parsed[name].isna().all():
            parsed[name] = parsed[name].astype(np.float64)
        if parsed[name].dtype.kind not in "iufb":
            first = parsed[name].dropna().iloc[0]
            raise DataError(
                f"{path}: the column {name} must have numbers, as in training; its first value is {first!r}"
            )
    return frame[names].assign(**{name: parsed[name] for name in numbers})


def _encoding_hint(options: FileOptions) -> str:
    return "" if options.encoding is None else f"; it was read as {options.encoding}, see {setting('encoding')}"


def encoded(features: Any, columns: tuple[Column, ...], where: str, missing: str) -> tuple[Floats, tuple[str, ...]]:
    """Return the inputs of a table, and reports of categories that the columns lack.

    Missing numbers are NaN. A one-hot column that is missing or unknown is 0 in all its inputs; a code that is missing
    or unknown is the number after those of the categories, and allowed only where missing values are filled in.

    Raises:
        DataError: an unknown category in a column of codes.
    """
    x = np.zeros((len(features), sum(column.width for column in columns)), np.float32)
    reports = []
    start = 0
    for column in columns:
        values = features[column.name]
        if column.kind == "number":
            with np.errstate(over="ignore"):  # float32 overflow becomes infinite, and raises later
                x[:, start] = as_number(values)
            start += 1
            continue
        texts = as_text(values)
        codes = np.asarray(texts.map({name: at for at, name in enumerate(column.categories)}).fillna(-1), np.int64)
        unknown = texts[(codes < 0) & texts.notna().to_numpy()]
        if len(unknown):
            what = (
                f"{counted(len(unknown), 'value')} of the column {column.name} not among the categories of the "
                f"training data, the first is {unknown.iloc[0]!r} in row {unknown.index[0]:,}"
            )
            if column.kind == "codes" and missing != "mean":
                raise DataError(f"{where}: {what}: correct them, or train with {setting('text', 'one-hot')}")
            reports.append(f"{what}: read as none of them")
        if column.kind == "one-hot":
            rows = np.flatnonzero(codes >= 0)
            x[rows, start + codes[rows]] = 1
        else:
            x[:, start] = np.where(codes < 0, len(column.categories), codes)
        start += column.width
    return x, tuple(reports)


def _complete(features: Any, targets: Series, path: Path, options: FileOptions) -> tuple[Any, Series, int]:
    """Return the rows to keep, and how many were dropped.

    Raises:
        DataError: values are missing and may not be, or no row is left.
    """
    blank = features.isna()
    counts = {name: int(count) for name, count in blank.sum().items() if count}
    blank_targets = int(targets.isna().sum())
    drop = setting("missing", "drop")
    if blank_targets and options.missing != "drop":
        raise DataError(
            f"{path}: the target {targets.name} is missing in {counted(blank_targets, 'row')}: drop them with {drop}"
        )
    listed = ", ".join(f"{name} ({count:,})" for name, count in counts.items())
    if counts and options.missing == "error":
        raise DataError(
            f"{path}: values are missing in {listed}: drop those rows with {drop} or fill in the mean with "
            f"{setting('missing', 'mean')}"
        )
    if options.missing == "mean":
        if empty := [name for name, count in counts.items() if count == len(features)]:
            raise DataError(
                f"{path}: the column {empty[0]} has no values to take a mean of: drop it with "
                f"{setting('text', 'drop', empty[0])}"
            )
        return features, targets, 0
    if not counts and not blank_targets:
        return features, targets, 0
    keep = ~(blank.any(axis=1) | targets.isna())
    if not keep.any():
        raise DataError(
            f"{path}: every row has a missing value ({listed or targets.name}): drop an empty column with "
            f"{setting('text', 'drop', max(counts, key=lambda name: counts[name], default=str(targets.name)))}"
        )
    return features[keep], targets[keep], int((~keep).sum())


def _source(
    path: Path,
    x: Floats,
    y: NDArray[np.generic],
    notes: tuple[str, ...],
    layout: Preprocessing,
    options: FileOptions,
    reports: tuple[str, ...],
) -> PreparedSource:
    table = layout.table
    assert table is not None
    fill = options.missing == "mean"
    try:
        # Missing values stay NaN until a mean is known: that of the training part.
        raw = array_source(np.nan_to_num(x, nan=0.0, posinf=np.inf, neginf=-np.inf) if fill else x, y, notes)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    if fill:
        raw = TensorSource(torch.from_numpy(x), raw.y.to(target_type(raw.y.dtype, False)), notes)
    scaled = table.scaled if options.standardize is not False else (False,) * len(table.scaled)
    standardizer = Standardizer(raw, scaled, fill) if fill or any(scaled) else None
    return PreparedSource(raw, layout, standardizer, partial(reopened, path, options), None, reports)
