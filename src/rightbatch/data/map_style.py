"""Map-style torch data sets: anything with a length and items."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset, default_collate

from ..errors import DataError
from .arrays import TensorSource, array_source, require_finite
from .collating import Collate, CollateFunction, Collation
from .nest import copied, describe_form, map_leaves, named_leaves, tensors
from .nest_source import NestSource, nest_source
from .source import Source

# In worker processes: called with the indices of the next items, to seed random generators.
begin_items: Callable[[list[int]], None] | None = None


class DatasetSource(Source):
    """A map-style `Dataset` whose items are collated into batches.

    Types are those of the items, except that Python floats and NumPy float64 become float32 and integer targets int64.
    Only the first item is read in advance, since items may be expensive or random.

    Args:
        dataset: with `__len__` and `__getitem__` (optionally `__getitems__`): pairs (x, y) or other nests of tensors,
            arrays, numbers and texts.
        collate: function from a list of items to a batch (default: stacks tensors of equal shapes).

    Raises:
        DataError: it has no length or no items, or the items cannot be collated.
    """

    def __init__(self, dataset: Any, collate: Collate | None = None) -> None:
        self.dataset, name = dataset, type(dataset).__name__
        if not isinstance(dataset, Sized):
            raise DataError(f"{name} has no length and cannot be shuffled: implement __len__")
        self._length = len(dataset)
        if self._length == 0:
            raise DataError(f"{name} is empty: provide at least one sample")
        self._fetch_many = getattr(dataset, "__getitems__", None)
        try:
            first = self.dataset[0]
        except (LookupError, TypeError, NotImplementedError) as error:
            raise DataError(f"reading item 0 of {name} failed: {type(error).__name__}: {error}") from error
        if collate is None or collate is default_collate:
            self._collate: Collation | CollateFunction = Collation(name, first, exact=collate is default_collate)
        else:
            self._collate = CollateFunction(name, collate)
        batch = self._collate([copied(first)])
        if not tensors(batch):
            raise DataError(
                f"item 0 of {name} is {describe_form(batch) or type(first).__name__}, without a tensor: items must "
                "contain tensors, arrays or numbers, or collate= must make them"
            )
        self.equal = isinstance(self._collate, Collation)
        self.describe_as(batch)
        for path, leaf in zip("xy", batch, strict=True) if self.pair else named_leaves(batch):
            if isinstance(leaf, Tensor):
                require_finite(leaf, path or "the sample", f" of item 0 of {name}")
        self.notes = (name,)
        names = getattr(dataset, "classes", None)
        integers = self.labelled and not self.y_dtype.is_floating_point
        self.y_range = (0, len(names) - 1) if integers and isinstance(names, (list, tuple)) and names else None

    def __len__(self) -> int:
        return self._length

    def fetch(self, indices: Tensor) -> Any:
        """Collate the items at `indices`."""
        return self._collate(self.items(indices))

    def collate(self, items: list[Any]) -> Any:
        """Make a batch of samples from `items`."""
        return self._collate(items)

    def items(self, indices: Tensor, seed: int = 0, epoch: int = 0) -> list[Any]:
        """Return the items at `indices`."""
        rows = indices.tolist()
        if self._fetch_many is not None:
            if begin_items is not None:
                begin_items(rows)
            many = self._fetch_many(rows)
            if isinstance(many, Mapping) or len(many) != len(rows):
                raise DataError(
                    f"{type(self.dataset).__name__}.__getitems__ returned a {type(many).__name__} of length "
                    f"{len(many)} for {len(rows)} indices: it must return a list of one sample per index"
                )
            return list(many)
        if begin_items is None:
            return [self.dataset[row] for row in rows]
        items = []
        for row in rows:
            begin_items([row])
            items.append(self.dataset[row])
        return items


class NestRows:
    """The samples of a nest in memory as items.

    Args:
        source: the nest.
    """

    def __init__(self, source: NestSource) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, row: int) -> Any:
        one = self._source.fetch(torch.tensor([row]))
        return map_leaves(lambda leaf: leaf[0] if isinstance(leaf, Tensor | list) else leaf, one)


def dataset_source(dataset: Dataset[Any]) -> Source:
    """Convert a map-style data set to a source; a `TensorDataset`, or a `Subset` of one, is unwrapped to its tensors.

    Raises:
        DataError: see `DatasetSource` and `array_source`.
    """
    if isinstance(dataset, TensorDataset):
        return array_source(*dataset.tensors) if len(dataset.tensors) == 2 else nest_source(dataset.tensors)
    if isinstance(dataset, Subset) and isinstance(dataset.dataset, (TensorDataset, Subset)) and len(dataset):
        whole = dataset_source(dataset.dataset)
        if isinstance(whole, TensorSource | NestSource):
            rows, n = torch.as_tensor(dataset.indices), len(whole)
            if not -n <= int(rows.min()) <= int(rows.max()) < n:
                raise DataError(f"the Subset has rows {int(rows.min())} to {int(rows.max())}: there are {n:,} samples")
            return whole.subset(torch.where(rows < 0, rows + n, rows))
    return DatasetSource(dataset)
