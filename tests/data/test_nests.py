"""Batches that are nests: every kind of data, by every way of reading it, gives the same samples."""

from collections import UserDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

import rightbatch
from rightbatch.data import BatchStream, as_source, as_stream, hold_out, with_workers
from rightbatch.data.nest import (
    concatenate,
    describe_form,
    form_of,
    leaves,
    map_leaves,
    map_tensors,
    rows_of,
    take,
    tensors,
    to_device,
)
from rightbatch.errors import DataError, InputError

N = 23
X = torch.arange(N * 3.0).reshape(N, 3)
ROWS = torch.arange(N)
NAMES = [f"row {i}" for i in range(N)]
Point = namedtuple("Point", "x y")


@dataclass
class Record:
    image: Any
    label: Any


NESTS: dict[str, Any] = {
    "tensor": X,
    "array": X.numpy(),
    "triple": (X, X * 2, ROWS),
    "dict": {"ids": ROWS, "mask": X > 3, "deep": {"x": [X, X + 1]}},
    "dict with texts": {"ids": ROWS, "name": NAMES},
    "user dict": UserDict(ids=ROWS, x=X),
    "named tuple": Point(X, ROWS),
    "dataclass": Record(X, ROWS),
    "nested inputs": ((X, X * 2), ROWS),
    "nested targets": (X, {"class": ROWS, "box": X * 3}),
    "sparse": {"x": sparse.csr_matrix(X.numpy()), "y": ROWS},
}


def dense(nest: Any) -> Any:
    """The nest with tensors for arrays and sparse matrices, as batches have them."""
    if isinstance(nest, dict):
        return {key: dense(part) for key, part in nest.items()}
    if sparse.issparse(nest):
        return torch.from_numpy(nest.toarray())
    return torch.from_numpy(nest) if isinstance(nest, np.ndarray) else nest


def same(one: Any, other: Any) -> bool:
    """Whether two nests have one form and equal values."""
    pairs = list(zip(leaves(one), leaves(other), strict=True))
    return type(one) is type(other) and all(
        torch.equal(a, b) if isinstance(a, Tensor) else list(a) == list(b) for a, b in pairs
    )


class Items(Dataset[Any]):
    """The samples of a nest as items."""

    def __init__(self, nest: Any) -> None:
        self.nest = dense(nest)

    def __len__(self) -> int:
        return N

    def __getitem__(self, row: int) -> Any:
        if not 0 <= row < N:
            raise IndexError(row)
        one = take(self.nest, torch.tensor([row]))
        return _first(one)


def _first(batch: Any) -> Any:
    return map_leaves(lambda leaf: leaf[0], batch)


@pytest.mark.parametrize("name", NESTS)
def test_a_nest_in_memory(name: str) -> None:
    source, whole = as_source(NESTS[name]), dense(NESTS[name])
    rows = torch.tensor([5, 0, 22, 5])
    assert len(source) == N and same(source.fetch(rows), take(whole, rows))


@pytest.mark.parametrize("how", ["data set", "list", "workers", "stream", "parts", "collate"])
@pytest.mark.parametrize("name", NESTS)
def test_every_way_gives_the_same_samples(name: str, how: str) -> None:
    items, whole = Items(NESTS[name]), dense(NESTS[name])
    made: dict[str, Callable[[], Any]] = {
        "data set": lambda: as_source(items),
        "list": lambda: as_source([items[i] for i in range(N)]),
        "workers": lambda: with_workers(items, 2),
        "stream": lambda: as_stream([items[i] for i in range(N)]),
        "parts": lambda: hold_out(as_source(NESTS[name]), 0.3)[0],
        "collate": lambda: as_source(items, collate=list),
    }
    source = made[how]()
    for epoch in range(2):
        stream = BatchStream(source, seed=3)
        stream.source.rewind()
        seen = []
        for size in (1, 4, 7, 100):
            interval = stream.take(size)
            batch = stream.fetch(interval)
            if how == "collate":
                seen += [int(list(leaves(item))[-1].flatten()[0]) if name != "dict with texts" else 0 for item in batch]
                continue
            again = stream.fetch(interval)
            assert same(batch, again) and rows_of(batch) == interval.samples
            order = stream.order.indices(interval.epoch, interval.start, interval.stop)
            if how in ("data set", "list", "workers", "stream"):
                assert same(batch, take(whole, torch.from_numpy(order))), epoch
            seen += (
                tensors(batch)[0].flatten(1)[:, 0].tolist()
                if tensors(batch)[0].dim() > 1
                else tensors(batch)[0].tolist()
            )
        assert len(seen) == len(source)
        if how != "collate":
            assert len(set(seen)) == len(source)


def test_lists_of_pairs() -> None:
    two = [(torch.tensor([1.0, 2.0]), 0), (torch.tensor([3.0, 4.0]), 1)]
    x, y = as_source(two).fetch(torch.tensor([1, 0]))
    assert x.tolist() == [[3, 4], [1, 2]] and y.tolist() == [1, 0]
    assert as_source([X, ROWS]).x_shape == (3,)  # columns
    lists = as_source([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], [0, 1, 0]])
    assert len(lists) == 3 and lists.x_shape == (2,)


class Ragged(Dataset[Any]):
    """Texts of 1 to 7 tokens; the first token is the row."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"ids": torch.full((1 + row % 7,), row), "label": row % 2}


def padded(items: list[Any]) -> dict[str, Tensor]:
    ids = pad_sequence([item.pop("ids") for item in items], batch_first=True, padding_value=-1)  # changes its items
    return {"ids": ids, "label": torch.tensor([item["label"] for item in items])}


@pytest.mark.parametrize("how", ["plain", "workers", "stream", "list", "part"])
def test_ragged_samples_are_collated_per_batch(how: str) -> None:
    items = [Ragged()[i] for i in range(N)]
    source = {
        "plain": lambda: as_source(Ragged(), collate=padded),
        "workers": lambda: with_workers(Ragged(), 2, collate=padded),
        "stream": lambda: as_stream(([dict(item) for item in items]), collate=padded),
        "list": lambda: as_source([Ragged()[i] for i in range(N)], collate=lambda r: padded([dict(i) for i in r])),
        "part": lambda: hold_out(with_workers(Ragged(), 2, collate=padded), 0.2)[0],
    }[how]()
    stream, seen = BatchStream(source, seed=1), []
    for size in (3, 1, 50):
        interval = stream.take(size)
        for _ in range(2):  # trial steps fetch a batch again
            batch = stream.fetch(interval)
            first = batch["ids"][:, 0]
            assert batch["ids"].shape[1] == int((1 + first % 7).max()) and torch.equal(batch["label"], first % 2)
        seen += first.tolist()
    assert len(seen) == len(set(seen)) == len(source) and (how == "part" or sorted(seen) == list(range(N)))


def test_a_stream_of_nests_resumes_in_mid_chunk() -> None:
    class Stateful:
        """Counts, and goes on from a saved count."""

        def __init__(self) -> None:
            self.at = 0

        def __iter__(self) -> Any:
            while self.at < N:
                self.at += 1
                yield {"ids": torch.full((1 + self.at % 3,), self.at), "name": str(self.at)}
            self.at = 0

        def state_dict(self) -> dict[str, int]:
            return {"at": self.at}

        def load_state_dict(self, state: dict[str, int]) -> None:
            self.at = state["at"]

    def joined(items: list[Any]) -> Any:
        return {"first": torch.tensor([int(item["ids"][0]) for item in items]), "name": [i["name"] for i in items]}

    stream = BatchStream(as_stream(Stateful(), N, collate=joined))
    stream.fetch(stream.take(4))
    stream.discard_consumed()
    stream.fetch(stream.take(6))  # read, and then lost
    stream.seek(0, 4)
    state = stream.state_dict()
    again = BatchStream(as_stream(Stateful(), N, collate=joined))
    again.load_state_dict(state)
    for size in (3, 8):
        found, wanted = again.fetch(again.take(size)), stream.fetch(stream.take(size))
        assert same(found, wanted) and found["name"][0] == str(int(found["first"][0]))


def test_items_of_numbers_and_lists_become_tensors_by_type() -> None:
    items = [{"ids": [1, 2, i], "score": i / 2, "label": i, "text": f"t{i}", "flag": i > 1} for i in range(4)]
    batch = as_source(items).fetch(torch.tensor([3, 1]))
    assert batch["ids"].tolist() == [[1, 2, 3], [1, 2, 1]] and batch["ids"].dtype == torch.int64
    assert batch["score"].dtype == torch.float32 and batch["text"] == ["t3", "t1"] and batch["flag"].dtype == torch.bool


def test_memory_maps_in_a_nest_are_read_by_batch(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X.numpy().astype(np.float64))
    data = {"x": np.load(tmp_path / "x.npy", mmap_mode="r"), "y": ROWS}
    train, valid = hold_out(as_source(data), 0.4, seed=1)
    both = torch.cat([part.fetch(torch.arange(len(part)))["x"] for part in (train, valid)])
    assert both.dtype == torch.float32 and torch.equal(both.sort(0).values, X)


def test_subsets_of_nests_and_single_tensors() -> None:
    part = as_source(Subset(TensorDataset(X, X * 2, ROWS), [4, 2]))
    assert same(part.fetch(torch.tensor([1, 0])), take((X, X * 2, ROWS), torch.tensor([2, 4])))
    assert torch.equal(as_source(TensorDataset(X)).fetch(torch.tensor([1]))[0], X[1:2])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"x": X, "y": ROWS[:4]}, "x 23, y 4"),
        ({"x": X, "y": torch.tensor(3)}, "y is a scalar"),
        ({"name": "text"}, "name is a single text"),
        ({"x": X[:0]}, "empty"),
        ({"x": {"deep": X * torch.inf}}, "deep has"),
        ([{"ids": [1, 2]}, {"ids": [1, 2, 3]}], "collate="),
        ([{"a": 1.0}, {"b": 1.0}], "same form"),
        ([(torch.ones(2), 0), (torch.ones(2), 0, 1)], "same form"),
    ],
)
def test_refused(data: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        source = as_source(data)
        source.fetch(torch.arange(2))


def test_a_failing_collate_function_is_named() -> None:
    def broken(items: list[Any]) -> Any:
        raise KeyError("labels")

    with pytest.raises(DataError, match="collate failed on 1 items of Ragged: KeyError"):
        as_source(Ragged(), collate=broken)
    with pytest.raises(DataError, match="collate= does not apply"):
        as_source(as_source(X), collate=list)
    with pytest.raises(InputError, match="collate= is for single samples"):
        as_stream([X], N, batched=True, collate=list)


def test_functions_of_nests() -> None:
    nest = {"a": X, "b": (ROWS, ["t"] * N)}
    assert same(concatenate([take(nest, slice(0, 4)), take(nest, slice(4, None))]), nest)
    assert describe_form(nest) == "a [3] float32, b.0 [] int64, b.1 list"
    assert form_of(nest) == form_of(take(nest, slice(0, 1))) != form_of({"a": X.double(), "b": nest["b"]})
    assert to_device(nest, torch.device("cpu")) is nest
    moved = to_device(nest, torch.device("meta"))
    assert moved["b"][0].device.type == "meta" and moved["b"][1] == ["t"] * N
    assert map_tensors(len, Point(X, 3)) == Point(N, 3)
    unlike = map_tensors(len, UserDict(a=X))
    assert isinstance(unlike, UserDict) and unlike["a"] == N


class Regression(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).squeeze(1)


def test_the_steps_of_a_nest_are_those_of_the_pair() -> None:
    """A dict, a triple and a pair of the same samples lead to the same parameters, bit for bit."""
    x, y = torch.randn(N, 3, generator=torch.Generator().manual_seed(0)), torch.ones(N)

    def trained(data: Any, loss_of: Callable[[nn.Module, Any], Tensor]) -> Tensor:
        model = Regression()
        auto = rightbatch.AutoBatch(model, torch.optim.SGD(model.parameters(), 0.1), data, batch_size=8, epochs=3)
        for batch in auto:
            auto.backward(loss_of(model, batch))
            auto.step()
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    pair = trained((x, y), lambda m, b: ((m(b[0]) - b[1]) ** 2).mean())
    mapping = trained({"x": x, "y": y}, lambda m, b: ((m(b["x"]) - b["y"]) ** 2).mean())
    triple = trained((x, y, ROWS), lambda m, b: ((m(b[0]) - b[1]) ** 2).mean())
    items = trained(Items({"x": x, "y": y}), lambda m, b: ((m(b["x"]) - b["y"]) ** 2).mean())
    assert torch.equal(pair, mapping) and torch.equal(pair, triple) and torch.equal(pair, items)


@dataclass
class Derived:
    x: Any
    y: Any = None
    doubled: Any = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.doubled = 2 * self.x if isinstance(self.x, Tensor) else 0


class Given(Dataset[Any]):
    def __init__(self, many: Callable[[list[int]], Any] | None = None) -> None:
        if many is not None:
            self.__getitems__ = many

    def __len__(self) -> int:
        return N

    def __getitem__(self, row: int) -> Any:
        return Derived(X[row], row)


def test_dataclasses_with_fields_that_init_does_not_take() -> None:
    batch = as_source(Given()).fetch(torch.tensor([3, 1]))
    assert torch.equal(batch.doubled, 2 * batch.x) and batch.y.tolist() == [3, 1]
    moved = to_device(batch, torch.device("meta"))
    assert isinstance(moved, Derived) and moved.doubled.device.type == "meta"


def test_texts_in_object_arrays_and_absent_fields() -> None:
    source = as_source({"x": X, "name": np.array(NAMES, dtype=object), "mask": None})
    batch = source.fetch(torch.tensor([5, 2]))
    assert batch["name"] == ["row 5", "row 2"] and batch["mask"] is None
    with pytest.raises(DataError, match="object array"):
        as_source({"x": X, "mixed": np.array([1] * N, dtype=object)})


def test_a_key_that_only_some_items_have_is_not_dropped() -> None:
    class Some(Given):
        def __getitem__(self, row: int) -> Any:
            return {"x": X[row], "mask": row} if row % 2 else {"x": X[row]}

    with pytest.raises(DataError, match="cannot be collated: the keys x"):
        as_source(Some()).fetch(torch.tensor([0, 1]))
    other = torch.tensor([1, 3])  # all have the key that the first item lacks
    assert as_source(Some()).fetch(other)["mask"].tolist() == [1, 3]
    with pytest.raises(DataError, match="the same parts as the first one"):
        with_workers(Some(), 2).fetch(other)


@pytest.mark.parametrize("many", [lambda rows: rows[:1], lambda rows: {"x": rows}])
def test_samples_that_getitems_drops_are_noticed(many: Any) -> None:
    with pytest.raises(DataError, match="one sample per index"):
        as_source(Given(many)).fetch(torch.arange(3))


def test_negative_rows_of_a_subset_count_from_the_end() -> None:
    whole = TensorDataset(X, ROWS)
    assert as_source(Subset(whole, [-1, 0])).fetch(torch.arange(2))[1].tolist() == [N - 1, 0]
    with pytest.raises(DataError, match="the Subset has rows"):
        as_source(Subset(whole, [0, N]))


def test_items_of_a_stream_with_different_parts_survive_a_checkpoint() -> None:
    def made() -> Any:
        items: list[dict[str, Any]] = [
            {"row": torch.tensor(i), "boxes": [torch.tensor([i + k]) for k in range(i % 3 + 1)]} for i in range(N)
        ]
        for item in items:
            mark = item["row"] % 5
            item["mark"] = {"five": mark} if item["row"] % 2 else mark

        class Stream(IterableDataset[Any]):
            def __init__(self) -> None:
                self.at = 0

            def __iter__(self) -> Any:
                while self.at < N:
                    self.at += 1
                    one = items[self.at - 1]
                    yield one if self.at % 2 else dict(reversed(one.items()))
                self.at = 0

            def state_dict(self) -> dict[str, int]:
                return {"at": self.at}

            def load_state_dict(self, state: dict[str, int]) -> None:
                self.at = state["at"]

        def summed(some: list[Any]) -> Any:
            rows = torch.stack([item["row"] for item in some])
            marks = [item["mark"]["five"] if item["row"] % 2 else item["mark"] for item in some]
            sums = torch.stack([torch.cat(item["boxes"]).sum() for item in some])
            return {"row": rows, "sum": sums, "mark": torch.stack(marks)}

        return BatchStream(as_stream(Stream(), N, collate=summed))

    one, other = made(), made()
    one.fetch(one.take(4))
    one.fetch(one.take(11))  # read, but not complete when it is saved
    other.load_state_dict(one.state_dict((0, 4)))
    batch = other.fetch(other.take(15))
    assert batch["row"].tolist() == list(range(4, 19))
    assert batch["mark"].tolist() == [i % 5 for i in range(4, 19)]
    assert batch["sum"].tolist() == [sum(i + k for k in range(i % 3 + 1)) for i in range(4, 19)]
