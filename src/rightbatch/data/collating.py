"""Collation of the items of torch data sets, pairs (x, y) of tensors, arrays or numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from ..errors import DataError


class Collation:
    """Collates items as torch does. Python floats and NumPy float64 become float32, integer targets int64.

    Args:
        name: name of the data set in messages.
        first: its first item; the others must be alike.

    Raises:
        DataError: the items are not such pairs.
    """

    def __init__(self, name: str, first: object) -> None:
        if not isinstance(first, (tuple, list)) or len(first) != 2:
            given = (
                f"a tuple of {len(first)} values" if isinstance(first, (tuple, list)) else f"a {type(first).__name__}"
            )
            raise DataError(f"item 0 of {name} is {given}: items must be pairs (x, y)")
        self._name = name
        self._narrow = [not isinstance(part, Tensor) for part in first]

    def __call__(self, items: list[Any]) -> tuple[Tensor, Tensor]:
        """Return x (n, ...) and y (n, ...) of items, at least one."""
        try:
            batch = default_collate(items)
        except (TypeError, RuntimeError) as error:
            raise DataError(
                f"items of {self._name} cannot be collated: {error}. Each must be a pair of tensors, arrays or "
                "numbers, all of the same shape; resize or pad them with a transform"
            ) from error
        for name, part in zip("xy", batch, strict=True):
            if not isinstance(part, Tensor):
                raise DataError(
                    f"{name} of {self._name} cannot be converted to a tensor: each item must be a pair of tensors, "
                    "arrays or numbers"
                )
        x, y = (
            part.to(torch.float32) if narrow and part.dtype == torch.float64 else part
            for part, narrow in zip(batch, self._narrow, strict=True)
        )
        return x, y.to(torch.int64) if not y.dtype.is_floating_point else y
