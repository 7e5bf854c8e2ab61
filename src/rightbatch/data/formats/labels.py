"""The interpretation of a column of targets: classes or a quantity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ...errors import DataError
from ...wording import setting
from .number_text import are_dates, decimals_of, first_not_number, read_number

MOST_CLASSES = 1000
FEWEST_IDENTIFIERS = 20  # as many distinct texts as rows name the rows, from this number of rows on
SHOWN = 5

Array = NDArray[np.generic]
NumberMeaning = Literal["signs", "classes", "quantity"]


class Targets(NamedTuple):
    """A target column: class numbers (integers) or a quantity (floats).

    Args:
        values: one per sample.
        notes: how it was interpreted, if that is not obvious.
        names: of the classes, in the order of their numbers, if the file has other values for them.
    """

    values: Array
    notes: tuple[str, ...] = ()
    names: tuple[str, ...] | None = None


def file_targets(y: Array) -> Targets:
    """Interpret a target column.

    Text becomes classes, numbered in sorted order; for numbers see `judge_numbers`.

    Raises:
        DataError: text with more than one value per sample.
    """
    if y.dtype.kind in "US":
        if y.ndim > 1:
            raise DataError(f"the text targets have shape {y.shape}: provide one label per sample")
        found, codes = np.unique(y.astype(str), return_inverse=True)
        names = tuple(found.tolist())
        return Targets(codes.astype(np.int64), (numbered(names),), names)
    if y.dtype.kind not in "iuf" or not y.size:
        return Targets(y)
    low, high = y.min().item(), y.max().item()
    meaning, notes = judge_numbers(low, high, bool(np.all((y == low) | (y == high))), y.dtype.kind == "f")
    if meaning == "signs":
        return Targets((y == high).astype(np.int64), notes, ("-1", "1"))
    return Targets(y.astype(np.float32) if meaning == "quantity" and y.dtype.kind != "f" else y, notes)


def label_names(y: object) -> Targets | None:
    """Interpret labels in an array or a list as classes if they are text; None if they are not.

    Raises:
        DataError: some labels are text and others are not, such as None or NaN.
    """
    if isinstance(y, Tensor) or (
        not hasattr(y, "dtype") and not (isinstance(y, (list, tuple)) and y and isinstance(y[0], str))
    ):
        return None
    values = np.asarray(y)
    if values.dtype.kind == "O" and values.ndim == 1 and any(isinstance(label, str) for label in values):
        other = next((row for row, label in enumerate(values) if not isinstance(label, str)), None)
        if other is not None:
            raise DataError(
                f"y has the label {values[other]!r} in row {other}, others are text: remove that sample, or make every "
                "label a text"
            )
        values = values.astype(str)
    if values.dtype.kind == "T" or (values.dtype.kind == "S" and values.ndim == 1):
        values = values.astype(str)
    return file_targets(values) if values.dtype.kind == "U" else None


def require_names(names: Sequence[str], rows: int, where: str) -> None:
    """Raise unless texts are names of classes, rather than numbers, dates or names of rows.

    Args:
        names: the distinct texts.
        rows: the number of rows.
        where: the file and the column, for messages.

    Raises:
        DataError: they are not.
    """
    some = list(names[:MOST_CLASSES])
    if are_dates(some):
        raise DataError(
            f"{where} has dates, the first is {some[0]!r}: a date is not a class; convert the column to numbers, such "
            "as days"
        )
    if signs := decimals_of(some):
        raise not_numbers(some, signs, where)
    if len(names) > MOST_CLASSES or (len(names) == rows and rows >= FEWEST_IDENTIFIERS):
        most = f"more than {MOST_CLASSES:,}" if len(names) > MOST_CLASSES else f"{rows:,} in {rows:,} rows"
        raise DataError(
            f"{where} has {most} distinct texts, the first is {some[0]!r}, too many for classes: choose a column of "
            "classes or numbers"
        )


def not_numbers(values: Sequence[str], signs: tuple[str, ...], where: str, decimal: str | None = None) -> DataError:
    """Return the error for a column of which most texts are numbers, but some are not, or are written specially.

    Args:
        values: the texts, in the order of the file.
        signs: the decimal signs with which most are numbers; at least one.
        where: the file and the column.
        decimal: the sign that was given, if it was.
    """
    sign = decimal or signs[0]
    stray = first_not_number(values, sign)
    if decimal is None:
        fitting = [sign for sign in signs if first_not_number(values, sign) is None]
        if fitting:
            offered = " or ".join(f"{setting('decimal', sign)} ({_read_as(values[0], sign)})" for sign in fitting)
            return DataError(
                f"{where} has numbers written as text, the first is {values[0]!r}: read them with {offered}"
            )
    return DataError(
        f"{where} has numbers, except {stray!r}"
        f"{'' if decimal is None else f' (with the decimal sign {decimal!r})'}: correct that value, or leave it empty "
        f"and choose {setting('missing', 'drop')}"
    )


def _read_as(value: str, sign: str) -> str:
    written = read_number(value, sign)
    return "" if written is None else f"{value} is {written.value:.10g}{written.unit if written.unit == '%' else ''}"


def judge_numbers(low: float, high: float, two_values: bool, floating: bool) -> tuple[NumberMeaning, tuple[str, ...]]:
    """Interpret a column of numbers as targets, with notes if it is not obvious.

    | column | meaning |
    |---|---|
    | -1 and 1 only | signs: classes 0 and 1 |
    | whole numbers 0 to 999, or booleans | classes, as they are |
    | other whole numbers | a quantity |
    | floating numbers | a quantity, as they are |

    Args:
        low: the smallest value.
        high: the largest value.
        two_values: whether there are no other values.
        floating: whether the type is floating-point.

    Returns:
        The meaning, and notes.
    """
    if two_values and (low, high) == (-1, 1):
        return "signs", ("targets -1 and 1 converted to classes 0 and 1",)
    if floating:
        return "quantity", ()
    if low < 0 or high >= MOST_CLASSES:
        return "quantity", (f"integer targets from {low} to {high} treated as a quantity, not as classes",)
    return "classes", ()


def numbered(names: Sequence[object]) -> str:
    """The note for text targets that became classes."""
    return f"text targets numbered: {', '.join(map(str, names[:SHOWN]))}{', ...' if len(names) > SHOWN else ''}"
