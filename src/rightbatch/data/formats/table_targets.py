"""The target column of a table in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from ..preprocessing import Meaning, Preprocessing
from .labels import Targets, file_targets, require_names
from .number_text import are_dates
from .table_columns import as_text, is_text, parsed

Series = Any


def new_targets(values: Series, where: str, decimal: str | None, dropped: bool) -> tuple[Targets, Meaning]:
    """Interpret a target column without missing values: classes, names of classes, or a quantity.

    Args:
        values: the column.
        where: the file and the column, for messages.
        decimal: the decimal sign, if it was given.
        dropped: whether rows with missing values were dropped, for which whole numbers had become floats.

    Raises:
        DataError: dates, names of rows, numbers written as text, or another type.
    """
    if is_text(values):
        found = parsed(values, where, decimal)
        if found is None:
            texts = as_text(values)
            require_names(sorted(texts.unique().tolist()), len(texts), where)
            return file_targets(np.asarray(texts, str)), "names"
        values = found[0]
    if values.dtype.kind not in "iufb":
        first = values.iloc[0]
        raise DataError(
            f"{where} has values of type {type(first).__name__}, the first is {str(first)[:60]!r}: it must be numbers "
            "or text"
        )
    numbers = values.to_numpy(dtype=np.dtype(f"{values.dtype.kind}{values.dtype.itemsize}"))
    if dropped and numbers.dtype.kind == "f" and np.isfinite(numbers).all() and (numbers == numbers.round()).all():
        numbers = numbers.astype(np.int64)
    if numbers.dtype.kind == "b":
        return Targets(numbers.astype(np.int64), (), ("False", "True")), "names"
    targets = file_targets(numbers)
    if targets.names is not None:
        return targets, "names"
    return targets, "quantity" if targets.values.dtype.kind == "f" else "numbers"


def known_targets(values: Series, where: str, layout: Preprocessing, decimal: str | None) -> NDArray[np.generic]:
    """Return a target column as the layout of the training data interprets it.

    Raises:
        DataError: a class is unknown, or the values are no numbers.
    """
    assert layout.table is not None
    if layout.table.meaning == "names":
        assert layout.classes is not None
        texts = as_text(values)
        codes = np.asarray(texts.map({name: at for at, name in enumerate(layout.classes)}).fillna(-1), np.int64)
        if (codes < 0).any():
            unknown = texts[codes < 0].iloc[0]
            raise DataError(
                f"{where} has the class {unknown!r}, which the training data lack; their classes are "
                f"{', '.join(layout.classes[:20])}: remove those rows, or train on all classes"
            )
        return codes
    if is_text(values) and not are_dates(values.astype(str).unique().tolist()):
        found = parsed(values, where, decimal)
        values = values if found is None else found[0]
    if values.dtype.kind not in "iufb":
        raise DataError(f"{where} must have numbers, as in training; the first value is {values.iloc[0]!r}")
    numbers = np.asarray(values, np.float64)
    if layout.table.meaning == "quantity":
        return numbers.astype(np.float32)
    if (numbers != numbers.round()).any() or numbers.min() < 0:
        raise DataError(f"{where} must have class numbers, whole and from 0, as in training")
    return numbers.astype(np.int64)
