"""The items of a stream: samples of any form, or batches of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from ...errors import DataError, InputError
from ..nest import leaves, map_leaves

UNCHANGING = (int, float, complex, str, bytes, np.generic)


class StreamItems:
    """An iterable of samples.

    Args:
        samples: an `IterableDataset`, a loader, a generator: pairs (x, y) or other nests of tensors, arrays, numbers.
        batched: whether items are batches with the samples in the first dimension (default: True for a `DataLoader`
            that batches, otherwise False).
        columns: the names of x and y, if items are mappings such as {"image": ..., "label": ...} and pairs are wanted.

    Raises:
        DataError: not iterable.
        InputError: batched or columns is invalid.
    """

    def __init__(self, samples: Iterable[Any], batched: bool | None, columns: tuple[str, str] | None) -> None:
        self.samples, self.name = samples, type(samples).__name__
        if not isinstance(samples, Iterable) or isinstance(samples, str | bytes | Mapping | Tensor | np.ndarray):
            advice = "pass it as data directly" if isinstance(samples, TensorDataset) else "pass an iterable of them"
            raise DataError(f"{self.name} is not a stream of samples: {advice}")
        if batched is None:
            batched = isinstance(samples, DataLoader) and samples.batch_sampler is not None
        elif not isinstance(batched, bool):
            raise InputError(f"batched must be True, False or None, got {batched!r}")
        if columns is not None and not (isinstance(columns, tuple | list) and len(columns) == 2):
            raise InputError(f"columns must be the names of x and y, such as ('image', 'label'), got {columns!r}")
        self.batched, self.columns = batched, columns

    def sample(self, item: Any) -> Any:
        """Return an item; x and y of it, if they are named.

        Raises:
            DataError: the item does not have these names.
        """
        if self.columns is None:
            return item
        try:
            return [item[name] for name in self.columns]
        except (KeyError, IndexError, TypeError) as error:
            held = ", ".join(map(str, item)) if isinstance(item, Mapping) else f"a {type(item).__name__}"
            raise DataError(
                f"columns={self.columns} are not in an item of {self.name}, which contains {held}"
            ) from error

    def way(self, one: Any, other: Any) -> Callable[[Any], Any] | None:
        """Return a function that converts items to samples that stay unchanged; None if none is needed.

        A stream may reuse the same object or memory, as two consecutive items show: its samples are copied immediately.
        (Batches are copied one by one anyway.)
        """
        both = zip(leaves(self.sample(one)), leaves(self.sample(other)), strict=False)
        reused = one is other and not isinstance(one, UNCHANGING)
        if not self.batched and (reused or any(_shared(first, second) for first, second in both)):
            return self._copied
        return None if self.columns is None else self.sample

    def _copied(self, item: Any) -> Any:
        return map_leaves(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else deepcopy(leaf), self.sample(item))


def _shared(one: object, other: object) -> bool:
    """Whether changing one may change the other."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.layout != torch.strided or other.layout != torch.strided:
            return one is other
        return one.numel() > 0 and one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return (one if one.base is None else one.base) is (other if other.base is None else other.base)
    return one is other and not isinstance(one, UNCHANGING)
