"""`DataLoader`s given as data: what is taken over, and samplers with their promises."""

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import rightbatch
from rightbatch.data import BatchStream, Source, as_source, drawn, hold_out
from rightbatch.data.drawn import UniformDraws, WeightedDraws
from rightbatch.data.nest_source import NestSource
from rightbatch.errors import DataError

N = 40
DATA = TensorDataset(torch.arange(N * 2.0).reshape(N, 2), torch.arange(N))


class Rows(Dataset[Any]):
    def __len__(self) -> int:
        return N

    def __getitem__(self, row: int) -> Any:
        return {"row": row, "value": torch.tensor([row / 2])}


class Own(Sampler[int]):
    """Half of the rows, by Python's generator, torch's, or a generator of its own, and the epoch."""

    def __init__(self, by: str) -> None:
        self.by, self.generator, self.epoch = by, torch.Generator(), -1

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return N // 2

    def __iter__(self) -> Any:
        if self.by == "python":
            return iter(random.sample(range(N), N // 2))
        if self.by == "numpy":
            return iter(np.random.permutation(N)[: N // 2])
        if self.by == "epoch":
            return iter([(self.epoch * 7 + i) % N for i in range(N // 2)])
        generator = self.generator if self.by == "own" else None
        return iter(torch.randperm(N, generator=generator)[: N // 2].tolist())


def epochs(source: Source, seed: int = 0, count: int = 2, sizes: tuple[int, ...] = (3, 5, 100)) -> list[list[int]]:
    """The rows of each epoch, in batches of several sizes."""
    stream, found = BatchStream(source, seed), []
    for _ in range(count):
        rows, turn, epoch = [], 0, stream.epoch
        while stream.epoch == epoch:
            batch = stream.fetch(stream.take(sizes[turn % len(sizes)]))
            rows += (batch["row"] if isinstance(batch, dict) else batch[1]).tolist()
            turn += 1
        found.append(rows)
    return found


@pytest.mark.parametrize("data", [DATA.tensors[0], DATA.tensors[1], DATA.tensors[0].double().requires_grad_()])
def test_a_tensor_as_data_set_is_indexed_at_once(data: torch.Tensor) -> None:
    source = as_source(DataLoader(data, batch_size=7, shuffle=False))  # type: ignore[arg-type]
    order = source.order(0, source.shuffle is not False)
    for number, batch in enumerate(DataLoader(data, batch_size=7, shuffle=False)):  # type: ignore[arg-type]
        start = 7 * number
        taken = source.fetch_interval(order, 0, start, start + len(batch))
        assert taken.dtype == batch.dtype and torch.equal(taken, batch) and not taken.requires_grad
    assert isinstance(source, NestSource)


def test_batches_are_those_of_the_loader_without_conversion() -> None:
    data = TensorDataset(torch.arange(8, dtype=torch.uint8).reshape(4, 2), torch.zeros(4, dtype=torch.int32))
    x, y = as_source(DataLoader(data)).fetch(torch.arange(4))
    assert x.dtype == torch.uint8 and y.dtype == torch.int32 and x.tolist() == data.tensors[0].tolist()

    class Doubles(Dataset[Any]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, row: int) -> Any:
            return np.float64(row), row

    mine, theirs = as_source(DataLoader(Doubles())).fetch(torch.arange(4)), next(iter(DataLoader(Doubles(), 4)))
    assert [part.dtype for part in mine] == [part.dtype for part in theirs] == [torch.float64, torch.int64]


@pytest.mark.parametrize("dataset", [DATA, Rows()])
@pytest.mark.parametrize("workers", [0, 2])
def test_shuffled_in_order_and_subset(dataset: Any, workers: int) -> None:
    def made(**settings: Any) -> Source:
        return as_source(DataLoader(dataset, num_workers=workers, **settings))

    for one, other in [epochs(made(shuffle=True)), epochs(made(sampler=RandomSampler(dataset)))]:
        assert sorted(one) == sorted(other) == list(range(N)) and one != other
    assert epochs(made()) == epochs(made(sampler=SequentialSampler(dataset))) == [list(range(N))] * 2
    one, other = epochs(made(sampler=SubsetRandomSampler([5, 1, 30, 7])))
    assert sorted(one) == sorted(other) == [1, 5, 7, 30]
    ranked = made(sampler=DistributedSampler(dataset, num_replicas=2, rank=1))
    assert sorted(epochs(ranked)[0]) == list(range(N))
    train, valid = hold_out(made(), 0.25)
    assert not train.shuffle and sorted(epochs(train)[0] + epochs(valid)[0]) == list(range(N))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("by", ["python", "numpy", "torch", "own", "epoch"])
def test_a_sampler_of_ones_own_is_a_function_of_seed_and_epoch(by: str, workers: int) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    source = as_source(DataLoader(Rows(), sampler=Own(by), num_workers=workers))
    assert len(source) == N // 2
    found = epochs(source, seed=4)
    assert found[0] != found[1] and all(len(set(rows)) == N // 2 for rows in found)
    assert found == epochs(as_source(DataLoader(Rows(), sampler=Own(by))), seed=4, sizes=(1, 9))
    assert (found == epochs(source, seed=5)) == (by == "epoch")
    assert torch.equal(before, torch.get_rng_state())
    stream = BatchStream(source, 4)
    stream.load_state_dict(stream.state_dict((1, 6)))
    assert stream.fetch(stream.take(4))["row"].tolist() == found[1][6:10]


def test_batches_of_a_batch_sampler_are_joined() -> None:
    class Pairs(Sampler[list[int]]):
        def __len__(self) -> int:
            return N // 2

        def __iter__(self) -> Any:
            return iter([[i, i + 1] for i in torch.randperm(N // 2).mul(2).tolist()])

    (rows,) = epochs(as_source(DataLoader(Rows(), batch_sampler=Pairs())), count=1, sizes=(6,))
    assert sorted(rows) == list(range(N)) and all(b == a + 1 for a, b in zip(rows[::2], rows[1::2], strict=True))
    plain = as_source(DataLoader(Rows(), batch_sampler=BatchSampler(SequentialSampler(Rows()), 7, False)))
    assert epochs(plain, count=1) == [list(range(N))]


def test_weighted_draws_have_their_probabilities() -> None:
    """Chi-square of 30,000 draws over 6 rows, 5 degrees of freedom: below 20.5 with probability 0.999, seed fixed."""
    weights = np.array([1.0, 2.0, 0.0, 3.0, 4.0, 10.0, 0.5])
    draws = WeightedDraws(weights, 30_000)
    counts = np.bincount(draws.rows(3, 1), minlength=7)
    expected = 30_000 * weights / weights.sum()
    positive = weights > 0
    assert counts[2] == 0 and (((counts - expected) ** 2)[positive] / expected[positive]).sum() < 20.5
    assert not np.array_equal(draws.rows(3, 1), draws.rows(3, 2)) and np.array_equal(draws.rows(3, 1), draws.rows(3, 1))
    # Without replacement, the first of two draws has the probabilities of the weights, the second those of the rest.
    pairs = Counter(tuple(WeightedDraws(np.array([1.0, 2.0, 1.0]), 2, False).rows(0, e).tolist()) for e in range(8_000))
    wanted = {(0, 1): 1 / 6, (0, 2): 1 / 12, (1, 0): 1 / 4, (1, 2): 1 / 4, (2, 0): 1 / 12, (2, 1): 1 / 6}
    assert sum((pairs[key] - 8_000 * p) ** 2 / (8_000 * p) for key, p in wanted.items()) < 20.5


def test_uniform_draws() -> None:
    with_replacement = UniformDraws(6, 30_000).rows(1, 0)
    counts = np.bincount(with_replacement, minlength=6)
    assert ((counts - 5_000) ** 2 / 5_000).sum() < 20.5
    repeated = UniformDraws(6, 15, replacement=False)
    for epoch in range(3):
        rows = repeated.rows(0, epoch)
        assert sorted(rows[:6]) == sorted(rows[6:12]) == list(range(6)) and len(set(rows[12:])) == 3
    loader = DataLoader(Rows(), sampler=RandomSampler(Rows(), num_samples=7))
    assert [len(set(rows)) for rows in epochs(as_source(loader))] == [7, 7]


def test_each_draw_is_used_once_and_counted_in_training() -> None:
    weights = torch.where(torch.arange(N) < 4, 10.0, 1.0)
    loader = DataLoader(Rows(), batch_size=10, sampler=WeightedRandomSampler(weights, 400))
    source = as_source(loader)
    assert source.batch_size == 10
    wanted = [row for rows in epochs(source, seed=0) for row in rows]
    model, seen = nn.Linear(1, 1), []
    auto = rightbatch.AutoBatch(model, torch.optim.SGD(model.parameters(), 0.1), loader, batch_size="auto")
    assert auto.batch_size == 10
    auto = rightbatch.AutoBatch(model, torch.optim.SGD(model.parameters(), 0.1), loader, batch_size=7, epochs=2)
    assert auto.train_samples == 400
    for batch in auto:
        seen += batch["row"].tolist()
        auto.backward(model(batch["value"]).mean())
        auto.step()
    assert Counter(seen) == Counter(wanted) and auto.samples == 800


def test_holding_out_of_draws_separates_rows() -> None:
    loader = DataLoader(Rows(), sampler=WeightedRandomSampler(torch.arange(1.0, N + 1), 400))
    train, valid = hold_out(as_source(loader), 0.25, seed=2)
    drawn, held = set(epochs(train, count=1)[0]), set(epochs(valid, count=1)[0])
    assert len(train) == 300 and len(valid) == len(held) == 10 and not drawn & held
    with pytest.raises(DataError, match="validation data of their own"):
        hold_out(as_source(DataLoader(Rows(), sampler=Own("torch"))), 0.25)


def test_the_generator_of_a_loader_changes_the_order() -> None:
    def rows(number: int, seed: int = 0) -> list[list[int]]:
        generator = torch.Generator().manual_seed(number)
        return epochs(as_source(DataLoader(Rows(), shuffle=True, generator=generator)), seed=seed)

    assert rows(1) == rows(1) != rows(2) and rows(1, seed=1) != rows(1)


def _begin(number: int) -> None:
    Rows.__getitem__ = lambda self, row: {"row": row, "value": torch.tensor([float(number)])}  # type: ignore[method-assign]


def _fail(number: int) -> None:
    raise OSError("no disk")


def test_worker_init_fn_and_start_method() -> None:
    source = as_source(DataLoader(Rows(), num_workers=2, worker_init_fn=_begin, multiprocessing_context="fork"))
    values = source.fetch(torch.arange(N))["value"].flatten().tolist()
    assert set(values) <= {0.0, 1.0}
    with pytest.raises(DataError, match="worker_init_fn failed: OSError: no disk"):
        as_source(DataLoader(Rows(), num_workers=1, worker_init_fn=_fail)).fetch(torch.arange(2))


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield from iter(int, 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DataLoader(Endless()), "as_stream"),
        (lambda: DataLoader(Rows(), batch_size=None), "batch_size=None"),
        (lambda: DataLoader(Rows(), sampler=[N]), "rows 40 to 40"),
        (lambda: DataLoader(Rows(), sampler=[0]), "draws 1 samples"),
        (lambda: DataLoader(Rows(), sampler=["a", "b"]), "row numbers"),
    ],
)
def test_refused(make: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        as_source(make())


def test_a_sampler_whose_length_changes_is_refused_when_it_does() -> None:
    class Growing(Sampler[int]):
        def __init__(self) -> None:
            self.epoch = 0

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

        def __iter__(self) -> Any:
            return iter(range(4 + self.epoch))

    source = as_source(DataLoader(Rows(), sampler=Growing()))
    with pytest.raises(DataError, match="drew 5 samples in epoch 1 and 4"):
        epochs(source)


class Curriculum(Sampler[int]):
    """Rows that depend on how often it was read, and on a generator of its own."""

    def __init__(self) -> None:
        self.turn, self.random = 0, random.Random(3)

    def __len__(self) -> int:
        return 6

    def __iter__(self) -> Any:
        self.turn += 1
        return iter([self.turn, *(self.random.randrange(N) for _ in range(5))])


def test_a_sampler_with_state_is_read_once_per_epoch_and_resumes() -> None:
    def made() -> Source:
        return as_source(DataLoader(Rows(), sampler=Curriculum()))

    found = epochs(made(), seed=4, count=4)
    assert [rows[0] for rows in found] == [1, 2, 3, 4]
    own = Curriculum()
    assert found == [list(own) for _ in range(4)]
    first = BatchStream(made(), 4)
    first.fetch(first.take(6)), first.fetch(first.take(6)), first.fetch(first.take(2))
    later = BatchStream(made(), 4)  # of a new process
    later.load_state_dict(first.state_dict((2, 2)))
    assert later.fetch(later.take(4))["row"].tolist() == found[2][2:]
    source = made()
    assert epochs(source, 4) == epochs(source, 4) == found[:2]  # it returns to its first epoch


def test_a_list_of_rows_may_be_read_again() -> None:
    source = as_source(DataLoader(Rows(), sampler=[3, -1, 2]))  # type: ignore[arg-type]
    assert [source.rows(5, epoch).tolist() for epoch in (1, 3, 0, 2)] == [[3, N - 1, 2]] * 4  # type: ignore[attr-defined]


def test_a_sampler_that_cannot_be_repeated_is_refused() -> None:
    class Unseeded(Sampler[int]):
        def __iter__(self) -> Any:
            return iter([random.SystemRandom().randrange(N) for _ in range(30)])

    with pytest.raises(DataError, match="drew other rows when it was read again"):
        as_source(DataLoader(Rows(), sampler=Unseeded()))


@pytest.mark.parametrize("length", [None, N])
def test_an_endless_sampler_is_refused(monkeypatch: pytest.MonkeyPatch, length: int | None) -> None:
    class Endless(Sampler[int]):
        def __iter__(self) -> Any:
            while True:
                yield from torch.randperm(N).tolist()

    if length is not None:
        monkeypatch.setattr(Endless, "__len__", lambda self: length, raising=False)
    monkeypatch.setattr(drawn, "LONGEST_EPOCH", 5 * N)
    with pytest.raises(DataError, match=f"more than {16 * N:,} samples"):
        as_source(DataLoader(Rows(), 8, sampler=Endless()))


def test_rows_may_be_tensors() -> None:
    for sampler in (torch.arange(5, 9), list(torch.arange(5, 9)), np.arange(5, 9)):
        assert epochs(as_source(DataLoader(Rows(), sampler=sampler)))[1] == [5, 6, 7, 8]  # type: ignore[arg-type]
    batches = [torch.tensor([1, 2]), np.array([3]), (4,)]
    assert epochs(as_source(DataLoader(Rows(), batch_sampler=batches)))[0] == [1, 2, 3, 4]  # type: ignore[arg-type]


@pytest.mark.parametrize("of", [SequentialSampler, RandomSampler, lambda rows: DistributedSampler(rows, 2, 0)])
def test_a_sampler_of_other_data_draws_from_the_first_rows(of: Any) -> None:
    for dataset in (Rows(), DATA):
        source = as_source(DataLoader(dataset, sampler=of(range(9))))
        found = [epochs(source)[epoch] for epoch in (0, 1)]
        assert [sorted(rows) for rows in found] == [list(range(9))] * 2
        assert source.shuffle == (of is not SequentialSampler) == (found[0] != sorted(found[0]))
        with pytest.raises(DataError, match=f"there are {N}"):
            as_source(DataLoader(dataset, sampler=of(range(N + 1))))


@pytest.mark.parametrize("size", [7, 64])
def test_torchs_batch_sampler_is_its_sampler(size: int) -> None:
    """A loader with batch_sampler= has a sampler attribute of its own, which it does not use."""
    weights = [0.0] * (N // 2) + [1.0] * (N // 2)
    for sampler in (WeightedRandomSampler(weights, N), RandomSampler(Rows()), SubsetRandomSampler(range(5))):
        source = as_source(DataLoader(Rows(), batch_sampler=BatchSampler(sampler, size, True)))
        assert epochs(source) == epochs(as_source(DataLoader(Rows(), sampler=sampler)))
        assert source.batch_size == size


@pytest.mark.parametrize("kind", [RandomSampler, SequentialSampler, DistributedSampler])
def test_a_subclass_of_a_sampler_draws_as_it_does(kind: Any) -> None:
    class Reversed(kind):  # type: ignore[misc]
        def __iter__(self) -> Any:
            return iter(range(N)[::-1])

    ranks = {"num_replicas": 1, "rank": 0} if kind is DistributedSampler else {}
    assert epochs(as_source(DataLoader(Rows(), sampler=Reversed(Rows(), **ranks))))[0] == list(range(N))[::-1]


def test_parts_are_taken_like_the_whole() -> None:
    sampler = WeightedRandomSampler([1.0] * N, N)
    loader = DataLoader(Rows(), 7, sampler=sampler, generator=torch.Generator().manual_seed(5))
    train, _ = hold_out(as_source(loader), 0.2)
    assert (train.batch_size, train.own_seed, train.shuffle) == (7, 5, False)
    for source in (
        as_source(DataLoader(Rows())),
        as_source(DataLoader(DATA)),
        as_source(DataLoader(Rows(), num_workers=2)),
        as_source((DATA.tensors[0], DATA.tensors[1]), order="sequential"),
        as_source((DATA.tensors[0], DATA.tensors[1]), order="sequential", standardize=True),
    ):
        train, valid = hold_out(source, 0.25)
        rows = epochs(train, count=1)[0], epochs(valid, count=1)[0]
        assert list(map(sorted, rows)) == list(rows) and sorted(rows[0] + rows[1]) == list(range(N))


def test_too_many_weights_and_rows_out_of_range() -> None:
    with pytest.raises(DataError, match="41 weights, the data set 40 samples"):
        as_source(DataLoader(Rows(), sampler=WeightedRandomSampler([1.0] * (N + 1), N)))
    with pytest.raises(DataError, match="rows 3 to 40"):
        as_source(DataLoader(Rows(), sampler=SubsetRandomSampler([3, N])))
    assert sorted(epochs(as_source(DataLoader(Rows(), sampler=SubsetRandomSampler([-1, 0]))))[0]) == [0, N - 1]


@pytest.mark.parametrize("dataset", [Rows(), "swapped"])
@pytest.mark.parametrize("workers", [0, 2])
def test_keys_may_come_in_any_order(dataset: Any, workers: int) -> None:
    class Swapped(Rows):
        def __getitem__(self, row: int) -> Any:
            one = {"row": row, "value": torch.tensor(1000 + row)}
            return one if row % 3 else dict(reversed(one.items()))

    loader = DataLoader(Swapped() if dataset == "swapped" else dataset, num_workers=workers)
    for source in (as_source(loader), as_source(loader.dataset)):
        batch = source.fetch_interval(source.order(1), 0, 0, N)
        assert sorted(batch["row"].tolist()) == list(range(N))
        if dataset == "swapped":
            assert torch.equal(batch["value"], batch["row"] + 1000)


def test_a_worker_knows_its_number_and_data_set() -> None:
    class Asking(Rows):
        def __getitem__(self, row: int) -> Any:
            found = torch.utils.data.get_worker_info()
            if found is None:  # the first item is read in this process, too
                return {"row": row, "worker": -1, "of": 0}
            assert isinstance(found.dataset, Asking)
            return {"row": row, "worker": found.id, "of": found.num_workers}

    source = as_source(DataLoader(Asking(), num_workers=2))
    batch = source.fetch_interval(source.order(0), 0, 0, N)
    assert set(batch["worker"].tolist()) == {0, 1} and set(batch["of"].tolist()) == {2}
    assert torch.utils.data.get_worker_info() is None
