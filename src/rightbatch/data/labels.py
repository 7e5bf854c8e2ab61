"""What a target column of a file means: classes or a quantity."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError

MOST_CLASSES = 1000


def file_targets(y: NDArray[np.generic]) -> tuple[NDArray[np.generic], tuple[str, ...]]:
    """Turn a target column into class numbers (integers) or a quantity (floats), and say so where it is not plain.

    | column | becomes |
    |---|---|
    | text | classes, numbered in sorted order |
    | -1 and 1 only | classes 0 and 1 |
    | whole numbers 0 to 999, or booleans | classes, as they are |
    | other whole numbers | a quantity |
    | floating numbers | a quantity, as they are |

    Returns:
        The targets, and notes for people.

    Raises:
        DataError: several columns of text.
    """
    if y.dtype.kind in "US":
        if y.ndim > 1:
            raise DataError(f"the text targets have shape {y.shape}: one label an example is needed")
        names, codes = np.unique(y, return_inverse=True)
        shown = ", ".join(str(name) for name in names[:5]) + (", ..." if len(names) > 5 else "")
        return codes.astype(np.int64), (f"text targets numbered: {shown}",)
    if y.dtype.kind not in "iuf" or not y.size:
        return y, ()
    low, high = y.min().item(), y.max().item()
    if (low, high) == (-1, 1) and np.all((y == low) | (y == high)):
        return (y == high).astype(np.int64), ("targets -1 and 1 became classes 0 and 1",)
    if y.dtype.kind != "f" and (low < 0 or high >= MOST_CLASSES):
        return y.astype(np.float32), (f"whole-number targets from {low} to {high} taken as a quantity, not as classes",)
    return y, ()
