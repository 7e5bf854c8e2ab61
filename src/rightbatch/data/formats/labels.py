"""What a target column of a file means: classes or a quantity."""

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
    """Turn a target column into class numbers (integers) or a quantity (floats), and say so where it is not plain.

    Text becomes classes, numbered in sorted order; what numbers mean, `judge_numbers` tells.

    Returns:
        The targets, and notes for people.

    Raises:
        DataError: several columns of text.
    """
    if y.dtype.kind in "US":
        if y.ndim > 1:
            raise DataError(f"the text targets have shape {y.shape}: one label a sample is needed")
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
    """Tell what a column of numbers means as targets, and say so where it is not plain.

    | column | means |
    |---|---|
    | -1 and 1 only | signs: classes 0 and 1 |
    | whole numbers 0 to 999, or booleans | classes, as they are |
    | other whole numbers | a quantity |
    | floating numbers | a quantity, as they are |

    Args:
        low: the least.
        high: the largest.
        two_values: whether there are no others.
        floating: whether their type is one of floating numbers.

    Returns:
        The meaning, and notes for people.
    """
    if two_values and (low, high) == (-1, 1):
        return "signs", ("targets -1 and 1 became classes 0 and 1",)
    if floating:
        return "quantity", ()
    if low < 0 or high >= MOST_CLASSES:
        return "quantity", (f"whole-number targets from {low} to {high} taken as a quantity, not as classes",)
    return "classes", ()


def numbered(names: Sequence[object]) -> str:
    """Say of sorted texts that they are classes now."""
    return f"text targets numbered: {', '.join(map(str, names[:SHOWN]))}{', ...' if len(names) > SHOWN else ''}"
