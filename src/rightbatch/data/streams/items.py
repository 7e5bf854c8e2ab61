"""The items of a stream: pairs (x, y), mappings that contain them, or batches of either."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from ...errors import DataError, InputError

UNCHANGING = (int, float, complex, str, bytes, np.generic)


class StreamItems:
    """An iterable of samples, and the conversion of its items to pairs.

    Args:
        samples: an `IterableDataset`, a loader, a generator: pairs (x, y) of tensors, arrays or numbers.
        batched: whether items are batches with the samples in the first dimension (default: True for a `DataLoader`
            that batches, otherwise False).
        columns: the names of x and y, if items are mappings such as {"image": ..., "label": ...}.

    Raises:
        DataError: not iterable.
        InputError: batched or columns is invalid.
    """

    def __init__(self, samples: Iterable[Any], batched: bool | None, columns: tuple[str, str] | None) -> None:
        self.samples, self.name = samples, type(samples).__name__
        if not isinstance(samples, Iterable) or isinstance(samples, str | bytes | Mapping | Tensor | np.ndarray):
            advice = "pass it as data directly" if isinstance(samples, TensorDataset) else "pass an iterable of them"
            raise DataError(f"{self.name} is not a stream of pairs (x, y): {advice}")
        if batched is None:
            batched = isinstance(samples, DataLoader) and samples.batch_sampler is not None
        elif not isinstance(batched, bool):
            raise InputError(f"batched must be True, False or None, got {batched!r}")
        if columns is not None and not (isinstance(columns, tuple | list) and len(columns) == 2):
            raise InputError(f"columns must be the names of x and y, such as ('image', 'label'), got {columns!r}")
        self.batched, self.columns = batched, columns

    def pair(self, item: Any) -> Any:
        """Return x and y of an item, by their names if it is a mapping.

        Raises:
            DataError: the item does not have these names, or it is a mapping and no names are given.
        """
        if self.columns is None:
            if isinstance(item, Mapping):
                held = ", ".join(map(str, item))
                raise DataError(f"items of {self.name} contain {held}: name x and y, as in columns=('image', 'label')")
            return item
        try:
            return [item[name] for name in self.columns]
        except (KeyError, IndexError, TypeError) as error:
            held = ", ".join(map(str, item)) if isinstance(item, Mapping) else f"a {type(item).__name__}"
            raise DataError(
                f"columns={self.columns} are not in an item of {self.name}, which contains {held}"
            ) from error

    def way(self, one: Any, other: Any) -> Callable[[Any], Any] | None:
        """Return a function that converts items to pairs that stay unchanged; None if none is needed.

        A stream may reuse the same object or memory, as two consecutive items show: its pairs are copied immediately.
        (Batches are copied one by one anyway.)
        """
        pairs = zip(self.pair(one), self.pair(other), strict=True)
        if not self.batched and (one is other or any(_shared(first, second) for first, second in pairs)):
            return self._copied
        return None if self.columns is None else self.pair

    def _copied(self, item: Any) -> Any:
        pair = self.pair(item)
        return [part.clone() if isinstance(part, Tensor) else deepcopy(part) for part in pair]


def _shared(one: object, other: object) -> bool:
    """Whether changing one may change the other."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.layout != torch.strided or other.layout != torch.strided:
            return one is other
        return one.numel() > 0 and one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return (one if one.base is None else one.base) is (other if other.base is None else other.base)
    return one is other and not isinstance(one, UNCHANGING)
