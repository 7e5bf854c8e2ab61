"""The interpretation of a target column: classes or a quantity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError

MOST_CLASSES = 1000
SHOWN = 5

Meaning = Literal["signs", "classes", "quantity"]


def file_targets(y: NDArray[np.generic]) -> tuple[NDArray[np.generic], tuple[str, ...]]:
    """Convert a target column to class numbers (integers) or a quantity (floats), with notes if it is not obvious.

    Text becomes classes, numbered in sorted order; for numbers see `judge_numbers`.

    Returns:
        The targets, and notes.

    Raises:
        DataError: text with more than one value per sample.
    """
    if y.dtype.kind in "US":
        if y.ndim > 1:
            raise DataError(f"the text targets have shape {y.shape}: provide one label per sample")
        names, codes = np.unique(y, return_inverse=True)
        return codes.astype(np.int64), (numbered(names.tolist()),)
    if y.dtype.kind not in "iuf" or not y.size:
        return y, ()
    low, high = y.min().item(), y.max().item()
    meaning, notes = judge_numbers(low, high, bool(np.all((y == low) | (y == high))), y.dtype.kind == "f")
    if meaning == "signs":
        return (y == high).astype(np.int64), notes
    return (y.astype(np.float32) if meaning == "quantity" and y.dtype.kind != "f" else y), notes


def judge_numbers(low: float, high: float, two_values: bool, floating: bool) -> tuple[Meaning, tuple[str, ...]]:
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
