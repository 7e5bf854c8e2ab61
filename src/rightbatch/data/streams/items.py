"""What a stream gives, one after another: pairs (x, y), mappings that hold them, or batches of either."""

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
    """An iterable of samples, and how an item becomes a pair.

    Args:
        samples: an `IterableDataset`, a loader, a generator: pairs (x, y) of tensors, arrays or numbers.
        batched: whether items are batches, their first dimension that of the samples. None asks a `DataLoader`, and is
            False for all else.
        columns: the names of x and y, where items are mappings such as {"image": ..., "label": ...}.

    Raises:
        DataError: not iterable.
        InputError: batched or columns out of range.
    """

    def __init__(self, samples: Iterable[Any], batched: bool | None, columns: tuple[str, str] | None) -> None:
        self.samples, self.name = samples, type(samples).__name__
        if not isinstance(samples, Iterable) or isinstance(samples, str | bytes | Mapping | Tensor | np.ndarray):
            advice = "it is data as it stands" if isinstance(samples, TensorDataset) else "pass an iterable of them"
            raise DataError(f"{self.name} is no stream of pairs (x, y): {advice}")
        if batched is None:
            batched = isinstance(samples, DataLoader) and samples.batch_sampler is not None
        elif not isinstance(batched, bool):
            raise InputError(f"batched must be True, False or None, got {batched!r}")
        if columns is not None and not (isinstance(columns, tuple | list) and len(columns) == 2):
            raise InputError(f"columns names two, x and y, got {columns!r}: write columns=('image', 'label')")
        self.batched, self.columns = batched, columns

    def pair(self, item: Any) -> Any:
        """Return x and y of an item: by their names, where it is a mapping.

        Raises:
            DataError: it is none, or has not these names, or a mapping where none were given.
        """
        if self.columns is None:
            if isinstance(item, Mapping):
                held = ", ".join(map(str, item))
                raise DataError(f"items of {self.name} hold {held}: name x and y, as in columns=('image', 'label')")
            return item
        try:
            return [item[name] for name in self.columns]
        except (KeyError, IndexError, TypeError) as error:
            held = ", ".join(map(str, item)) if isinstance(item, Mapping) else f"a {type(item).__name__}"
            raise DataError(f"columns={self.columns} are not in an item of {self.name}: it is {held}") from error

    def way(self, one: Any, other: Any) -> Callable[[Any], Any] | None:
        """Return how items that follow each other, such as these two, become pairs that nobody changes; None if as is.

        A stream may fill the same object, or memory, again and again: its pairs are copied as they come. (Batches are
        copied one by one anyway.)
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
