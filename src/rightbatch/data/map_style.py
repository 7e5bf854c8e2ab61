"""Map-style torch data sets: anything with a length and items (x, y)."""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from ..errors import DataError
from .arrays import TensorSource, array_source, require_finite
from .collating import Collation
from .source import Source

# In worker processes: called with the indices of the next items, to seed random generators.
begin_items: Callable[[list[int]], None] | None = None


class DatasetSource(Source):
    """A map-style `Dataset` whose items are collated into batches.

    Types are those of the items, except that Python floats and NumPy float64 become float32 and integer targets int64.
    Only the first item is read in advance, since items may be expensive or random.

    Args:
        dataset: with `__len__` and `__getitem__` (optionally `__getitems__`) returning pairs (x, y) of tensors, arrays
            or numbers.

    Raises:
        DataError: it has no length or no items, or the items are not such pairs.
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        name = type(dataset).__name__
        if not isinstance(dataset, Sized):
            raise DataError(f"{name} has no length and cannot be shuffled: implement __len__")
        if len(dataset) == 0:
            raise DataError(f"{name} is empty: provide at least one sample")
        self.dataset, self._length = dataset, len(dataset)
        self._fetch_many = getattr(dataset, "__getitems__", None)
        try:
            first = dataset[0]
        except (LookupError, TypeError, NotImplementedError) as error:
            raise DataError(f"reading item 0 of {name} failed: {type(error).__name__}: {error}") from error
        self._collate = Collation(name, first)
        x, y = self._collate([first])
        require_finite(x, "x", f" of item 0 of {name}")
        self.x_shape, self.x_dtype = tuple(x.shape[1:]), x.dtype
        self.y_shape, self.y_dtype = tuple(y.shape[1:]), y.dtype
        names = getattr(dataset, "classes", None)
        integers = not y.dtype.is_floating_point
        self.y_range = (0, len(names) - 1) if integers and isinstance(names, (list, tuple)) and names else None
        self.notes = (name,)

    def __len__(self) -> int:
        return self._length

    def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Collate x and y of the items at `indices`."""
        rows = indices.tolist()
        if self._fetch_many is not None:
            if begin_items is not None:
                begin_items(rows)
            return self._collate(self._fetch_many(rows))
        if begin_items is None:
            return self._collate([self.dataset[row] for row in rows])
        items = []
        for row in rows:
            begin_items([row])
            items.append(self.dataset[row])
        return self._collate(items)


def dataset_source(dataset: Dataset[Any]) -> Source:
    """Convert a map-style data set to a source; a `TensorDataset`, or a `Subset` of one, is unwrapped to its tensors.

    Raises:
        DataError: see `DatasetSource` and `array_source`.
    """
    if isinstance(dataset, TensorDataset):
        if len(dataset.tensors) != 2:
            raise DataError(f"the TensorDataset contains {len(dataset.tensors)} tensors: it must contain two, x and y")
        return array_source(*dataset.tensors)
    if isinstance(dataset, Subset) and isinstance(dataset.dataset, (TensorDataset, Subset)) and len(dataset):
        whole = dataset_source(dataset.dataset)
        if isinstance(whole, TensorSource):
            return whole.subset(torch.as_tensor(dataset.indices))
    return DatasetSource(dataset)
