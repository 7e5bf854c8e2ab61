"""The features of a table in memory: which columns are numbers, which are categories, and which are neither."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from ...wording import setting
from ..preprocessing import Column, Kind
from .labels import FEWEST_IDENTIFIERS, MOST_CLASSES, not_numbers
from .number_text import are_dates, decimals_of, first_not_number, read_number
from .options import FileOptions

Series = Any
MOST_ONE_HOT = 19
PANDAS_INDEX = re.compile(r"__index_level_\d+__")
_UNNAMED = re.compile(r"Unnamed: \d+(\.\d+)*")


@dataclass(slots=True)
class Chosen:
    """What becomes of each feature column.

    Args:
        kinds: of the columns that stay.
        notes: on those that do not.
    """

    kinds: dict[str, Kind] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def column(self, values: Series) -> Column:
        """Describe a column, with the categories that it has."""
        name = str(values.name)
        kind = self.kinds[name]
        return Column(name, kind, () if kind == "number" else tuple(sorted(as_text(values).dropna().unique().tolist())))


def leftover_columns(features: Any, path: Path, options: FileOptions) -> tuple[list[str], list[str]]:
    """Return the columns that hold only the numbers of the rows, as `to_csv` writes them, or nothing; with notes.

    Raises:
        DataError: a column without a name has other values.
    """
    names, notes = [], []
    for name in features.columns:
        values = features[name]
        unnamed = _UNNAMED.fullmatch(name)
        if not (unnamed or PANDAS_INDEX.fullmatch(name)) or options.text_of(name)[1]:
            continue
        if values.isna().all():
            notes.append(f"dropped the empty column {name!r}")
        elif values.dtype.kind in "iu" and values.is_unique:
            what = "an index that to_csv wrote" if unnamed else "an index that pandas stored"
            notes.append(f"dropped the column {name!r}, {what}")
        else:
            raise DataError(
                f"{path}: the column {name!r} has no name in the file, and its first value is {values.iloc[0]!r}: name "
                f"it, or drop it with {setting('text', 'drop', name)}"
            )
        names.append(name)
    return names, notes


def text_numbers(features: Any, path: Path, options: FileOptions) -> tuple[Any, list[str]]:
    """Convert columns of numbers written as text, where the decimal sign was given.

    Raises:
        DataError: most values of a column are numbers, but the decimal sign was not given, or some are not.
    """
    read, notes = {}, []
    for name in features.columns:
        values = features[name]
        if not is_text(values) or options.text_of(name)[0] == "drop" or options.text_of(name)[1]:
            continue
        found = parsed(values, f"{path}: the column {name}", options.decimal)
        if found is not None:
            read[name], units = found
            notes.append(f"read numbers from the text of {name}{f' (without {units})' if units else ''}")
    return features.assign(**read), notes


def parsed(values: Series, where: str, decimal: str | None) -> tuple[Series, str] | None:
    """Return a text column as numbers, with their unit; None if it does not have numbers.

    Raises:
        DataError: see `text_numbers`.
    """
    texts = values.dropna().astype(str)
    distinct = texts.unique().tolist()
    if not distinct or are_dates(distinct):
        return None
    signs = decimals_of(distinct)
    if not signs:
        return None
    if decimal is None or first_not_number(distinct, decimal) is not None:
        raise not_numbers(distinct, signs, where, decimal)
    written = {text: read_number(text, decimal) for text in distinct}
    numbers = {text: number.value for text, number in written.items() if number is not None}
    units = {number.unit for number in written.values() if number is not None}
    result = values.map(numbers).astype(np.float64)
    if result.notna().all() and all(number.is_integer() for number in numbers.values()):
        result = result.astype(np.int64)
    return result, units.pop()


def feature_columns(features: Any, path: Path, options: FileOptions) -> Chosen:
    """Choose what becomes of each column.

    Numbers stay. Text becomes categories, as `options.text` says; dates and names of rows never do, unless their column
    is named.

    Raises:
        DataError: a column is neither, or the options do not allow it.
    """
    chosen = Chosen()
    dropped, refused = [], []
    for name in features.columns:
        values = features[name]
        choice, named = options.text_of(name)
        if named and choice == "drop":
            dropped.append(name)
        elif named and choice in ("one-hot", "codes"):
            chosen.kinds[name] = "one-hot" if choice == "one-hot" else "codes"
        elif values.dtype.kind in "iufb":
            chosen.kinds[name] = "number"
        elif choice == "drop":
            dropped.append(name)
        elif not is_text(values) or are_dates(values.dropna().astype(str).unique().tolist() or [""]):
            raise not_a_feature(name, _what(values), path)
        elif choice == "error":
            refused.append(name)
        else:
            texts = values.dropna()
            chosen.kinds[name] = category(name, as_text(texts).unique().tolist(), len(texts), choice, False, path)
    if refused:
        raise not_numeric(refused, path)
    if dropped:
        chosen.notes.append(f"dropped the columns {', '.join(dropped)}, as {setting('text', 'drop')} says")
    return chosen


def not_numeric(names: list[str], path: Path) -> DataError:
    """Return the error for text columns that the caller does not allow."""
    return DataError(
        f"{path}: the columns {', '.join(names)} are not numeric: drop them with {setting('text', 'drop')}, make one "
        f"input of each value with {setting('text', 'one-hot')}, or number their values with {setting('text', 'codes')}"
    )


def not_a_feature(name: str, what: str, path: Path) -> DataError:
    """Return the error for a column that is neither numbers nor text."""
    return DataError(
        f"{path}: the column {name} has {what}: convert it to numbers, such as days, or drop it with "
        f"{setting('text', 'drop', name)}"
    )


def _what(values: Series) -> str:
    first = values.dropna().iloc[0] if values.notna().any() else None
    if values.dtype.kind == "m":
        what = "durations"
    elif values.dtype.kind == "M" or is_text(values) or type(first).__name__ in ("date", "time", "datetime"):
        what = "dates or times"
    else:
        what = f"values of type {type(first).__name__}"
    return f"{what}, the first is {str(first)[:60]!r}"


def category(name: str, values: list[str], rows: int, choice: str, named: bool, path: Path) -> Kind:
    """Return the kind of a column of text.

    Args:
        name: of the column.
        values: the different texts; sorted, or in the order of the file.
        rows: the number of texts.
        choice: "auto", "one-hot" or "codes".
        named: whether the choice is for this column.
        path: of the file.

    Raises:
        DataError: there are too many values, or, unless the column is named, they are dates, numbers or names of rows.
    """
    first, distinct = str(values[0])[:60] if values else "", len(values)
    ways = (
        f"drop it with {setting('text', 'drop', name)}, make one input of each value with "
        f"{setting('text', 'one-hot', name)}, or number the values with {setting('text', 'codes', name)}"
    )
    where = f"{path}: the column {name}"
    if not named and are_dates(values):
        raise not_a_feature(name, f"dates or times, the first is {first!r}", path)
    if not named and (signs := decimals_of(values)):
        raise not_numbers(values, signs, where)
    if not named and distinct == rows and rows >= FEWEST_IDENTIFIERS:
        raise DataError(
            f"{where} has another text in every row, the first is {first!r}: it names the row and says nothing about "
            f"others; {ways}"
        )
    most = MOST_ONE_HOT if choice == "auto" else MOST_CLASSES
    if choice != "codes" and distinct > most:
        raise DataError(
            f"{where} has {f'more than {most:,}' if choice == 'auto' else f'{distinct:,}'} different texts, the first "
            f"is {first!r}; up to {most:,} become one input each: {ways}"
        )
    return "codes" if choice == "codes" else "one-hot"


def is_text(values: Series) -> bool:
    """Whether all present values are texts."""
    kind = values.dtype.kind
    if kind in "iufbMmc":
        return False
    return bool(values.dropna().map(lambda value: isinstance(value, (str, bool))).all())


def as_text(values: Series) -> Series:
    """The values as texts, missing ones missing; whole numbers without a decimal point."""
    if values.dtype.kind == "f":
        whole = values.dropna()
        if (whole == whole.round()).all():
            values = values.astype("Int64")
    return values.astype(object).where(values.notna(), None).map(lambda value: None if value is None else str(value))


def as_number(values: Series) -> NDArray[np.float32]:
    """The values as float32, missing ones NaN."""
    return np.asarray(values.astype(np.float64), np.float64).astype(np.float32)
