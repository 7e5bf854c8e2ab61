"""Map-style data sets: unwrapped where they hold tensors, collated otherwise."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from rightbatch.data import BatchStream, Source, as_source, hold_out, with_workers
from rightbatch.data.arrays import TensorSource
from rightbatch.errors import DataError


class Items(Dataset[Any]):
    """The items of a list."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


class Batched(Items):
    """Items given by the handful; one by one is an error after the first."""

    def __getitem__(self, index: int) -> Any:
        assert index == 0
        return self.items[0]

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [self.items[index] for index in indices]


@pytest.mark.parametrize("kind", [Items, Batched])
def test_items_are_collated(kind: type[Items]) -> None:
    source = as_source(kind([(np.full(3, number, np.float64), number % 2) for number in range(10)]))
    x, y = source.fetch(torch.tensor([7, 2]))
    assert x.tolist() == [[7] * 3, [2] * 3] and y.tolist() == [1, 0]
    assert x.dtype == source.x_dtype == torch.float32 and y.dtype == source.y_dtype == torch.int64
    assert (source.x_shape, source.y_shape, source.classes, len(source)) == ((3,), (), None, 10)
    assert kind.__name__ in source.describe()


def test_types_of_items() -> None:
    source = as_source(Items([(torch.ones(2, dtype=torch.float64), 0.5)] * 3))
    assert (source.x_dtype, source.y_dtype) == (torch.float64, torch.float32)
    assert as_source(Items([(torch.ones(2), torch.tensor(True))] * 3)).fetch(torch.tensor([1]))[1].dtype == torch.int64


def test_named_classes_are_counted() -> None:
    items = Items([(torch.ones(2), 0)] * 3)
    items.classes = ["cat", "dog"]  # type: ignore[attr-defined]
    assert as_source(items).classes == 2


def test_a_set_of_tensors_is_unwrapped() -> None:
    whole = TensorDataset(torch.arange(20.0).reshape(10, 2), torch.arange(10))
    for dataset, rows in (
        (whole, range(10)),
        (Subset(whole, [7, 3]), [7, 3]),
        (Subset(Subset(whole, [7, 3]), [1]), [3]),
    ):
        source = as_source(dataset)
        assert isinstance(source, TensorSource)
        assert source.fetch(torch.arange(len(source)))[1].tolist() == list(rows)
    assert not isinstance(as_source(Subset(Items([(1.0, 2)] * 3), [0])), TensorSource)


def test_parts_of_a_data_set_are_views() -> None:
    train, valid = hold_out(as_source(Items([(float(number), number) for number in range(30)])), 0.3, seed=2)
    assert (len(train), len(valid)) == (21, 9) and "a part of 30 samples" in train.describe()
    seen = []
    for part in (train, valid):
        stream = BatchStream(part, seed=2)
        for size in (4, len(part)):
            x, y = stream.fetch(stream.take(size))
            assert x.tolist() == y.tolist()
            seen += y.tolist()
    assert sorted(seen) == list(range(30))


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield torch.ones(2), 0


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (Items([]), "Items is empty"),
        (TensorDataset(torch.ones(0, 2), torch.ones(0)), "empty"),
        (Items([(object(), "text")]), "without a tensor"),
        (Items(["text"]), "item 0 of Items is .*, without a tensor"),
        (Items([(torch.tensor([1.0, torch.nan]), 1)]), "x of item 0 of Items has 1 NaN"),
        (Dataset(), "Dataset has no length"),
        (Endless(), "Endless only supports sequential access"),
    ],
)
def test_refused(dataset: Dataset[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        as_source(dataset)


def test_an_item_that_cannot_be_had() -> None:
    class Keyed:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, key: str) -> int:
            return {"a": 1}[key]

    with pytest.raises(DataError, match="item 0 of Keyed failed: KeyError"):
        as_source(Keyed())


def test_examples_of_unequal_shape_are_refused_when_they_meet() -> None:
    source = as_source(Items([(torch.ones(2), 0), (torch.ones(3), 0)]))
    with pytest.raises(DataError, match="same form and shapes"):
        source.fetch(torch.tensor([0, 1]))


def test_a_source_of_ones_own_says_shapes_and_types_and_fetches() -> None:
    class Squares(Source):
        x_shape, x_dtype, y_shape, y_dtype = (1,), torch.float32, (), torch.float32

        def __len__(self) -> int:
            return 50

        def fetch(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return indices.float().unsqueeze(1), indices.float() ** 2

    source = as_source(Squares())
    assert source.describe() == "50 samples, x [1] float32, y [] float32" and source.classes is None
    x, y = BatchStream(source).fetch(BatchStream(source).take(8))
    assert torch.equal(y, x.squeeze(1) ** 2)


def test_a_source_of_ones_own_that_lacks_something_is_told_what() -> None:
    class Incomplete(Source):
        x_shape, x_dtype = (1,), torch.float32

        def __len__(self) -> int:
            return 50

        def fetch(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return indices.float().unsqueeze(1), indices.float() ** 2

    with pytest.raises(DataError, match=r"Incomplete has no y_shape, y_dtype: .* define x_shape"):
        as_source(Incomplete())


def test_parts_and_workers_pass_on_what_a_source_says() -> None:
    class Own(Source):
        x_shape, x_dtype, y_shape, y_dtype = (1,), torch.float32, (), torch.int64
        y_range, notes = (0, 6), ("of my own",)
        loss = staticmethod(torch.nn.functional.cross_entropy)

        def __len__(self) -> int:
            return 50

        def fetch(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return indices.float().unsqueeze(1), indices % 7

    source = Own()
    assert (Source.loss, Source.block_ends, source.block_ends, source.window) == (None, None, None, 16)
    blocks = Own()
    blocks.block_ends, blocks.window = np.array([20, 40, 50]), 2
    parts = [*hold_out(source, 0.2), *hold_out(blocks, 0.2), with_workers(source), *hold_out(with_workers(source), 0.2)]
    for part in parts:
        assert (part.x_shape, part.x_dtype, part.y_shape, part.y_dtype) == ((1,), torch.float32, (), torch.int64)
        assert part.classes == 7 and part.loss is source.loss and part.notes[0] == "of my own"
    assert [part.window for part in parts[2:4]] == [2, 2]
    assert [part.block_ends is None for part in parts] == [True, True, False, False, True, True, True]


def test_what_looks_like_a_source_is_told_what_to_be() -> None:
    class Almost:
        def fetch(self, indices: torch.Tensor) -> None: ...

    with pytest.raises(DataError, match=r"subclass of rightbatch\.data\.Source"):
        as_source(Almost())
