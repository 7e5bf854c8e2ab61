"""Samples of unequal lengths: grouped by length, passes limited by padded size; orders and samples on demand."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, WeightedRandomSampler

import rightbatch
from rightbatch.data import BatchStream, as_source, from_generator, hold_out, with_workers
from rightbatch.data.lengths import RUN_SAMPLES, WINDOW_SAMPLES, LengthOrder, cut_by_tokens
from rightbatch.data.order import Order
from rightbatch.errors import DataError, InputError

N = 300
RANDOM = np.random.default_rng(0)
LENGTHS = RANDOM.integers(1, 60, N)
TEXTS = [{"ids": torch.full((int(length),), row + 1), "row": row} for row, length in enumerate(LENGTHS)]


def padded(items: list[Any]) -> dict[str, Tensor]:
    ids = pad_sequence([item["ids"] for item in items], batch_first=True)
    return {"ids": ids, "row": torch.tensor([item["row"] for item in items])}


def loss_of(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    mask = batch["ids"] > 0
    return (model(batch["ids"][..., None].double()).squeeze(-1) * mask).sum() / mask.sum(), mask.sum()


@pytest.mark.parametrize("n", [1, 63, WINDOW_SAMPLES, 2 * WINDOW_SAMPLES + 100, 300_000])
def test_an_order_by_length_visits_each_sample_once(n: int) -> None:
    lengths = RANDOM.integers(1, 1000, n)
    order = LengthOrder(n, 5, lengths=lengths)
    whole = order.indices(2, 0, n)
    assert sorted(whole.tolist()) == list(range(n))
    assert np.array_equal(pickle.loads(pickle.dumps(order)).indices(2, 0, n), whole)
    for start, stop in ((0, 1), (n // 3, n // 2), (n - 1, n), (max(0, n - 200), n)):
        assert np.array_equal(order.indices(2, start, stop), whole[start:stop])
    places = np.array([n - 1, 0, n // 2])
    assert np.array_equal(order.at(2, places), whole[places])
    if n > WINDOW_SAMPLES:
        assert not np.array_equal(whole, order.indices(3, 0, n))
        plain = Order(n, 5).indices(2, 0, n)
        spread = [
            np.ptp(lengths[rows[:WINDOW_SAMPLES].reshape(-1, RUN_SAMPLES)], axis=1).mean() for rows in (whole, plain)
        ]
        assert spread[0] < spread[1] / 10
        assert set(whole[:WINDOW_SAMPLES]) == set(plain[:WINDOW_SAMPLES])


def test_cuts_hold_the_limit_and_lose_nothing() -> None:
    """Against the plain definition, on random lengths, limits and numbers of processes."""
    for _ in range(200):
        lengths = RANDOM.integers(1, 50, RANDOM.integers(1, 80))
        processes, most = int(RANDOM.integers(1, 4)), int(RANDOM.integers(50, 300))
        half = len(lengths) // 2
        sizes = [size for size in (half, len(lengths) - half) if size]
        cut = cut_by_tokens(lengths, sizes, most, processes)
        ends = np.cumsum(cut)
        assert ends[-1] == len(lengths) and set(np.cumsum(sizes)) <= set(ends) and min(cut) >= 1
        for end, size in zip(ends, cut, strict=True):
            assert -(-size // processes) * lengths[end - size : end].max() <= most
            if end not in np.cumsum(sizes):  # one more would not fit
                assert -(-(size + 1) // processes) * lengths[end - size : end + 1].max() > most


@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize("lengths", [LENGTHS, lambda item: len(item["ids"])])
def test_training_in_passes_of_limited_size_is_training_on_whole_batches(group: bool, lengths: Any) -> None:
    """In float64, at 1e-10; the padded size of no pass is above the limit."""

    def trained(**settings: Any) -> tuple[Tensor, list[int], int]:
        torch.manual_seed(0)
        model, rows, largest = nn.Linear(1, 1).double(), [], 0
        source = as_source(TEXTS, collate=padded, lengths=lengths, group_by_length=group, **settings)
        auto = rightbatch.AutoBatch(model, torch.optim.SGD(model.parameters(), 1e-6), source, batch_size=32, epochs=2)
        for batch in auto:
            rows += batch["row"].tolist()
            largest = max(largest, batch["ids"].numel())
            auto.backward(*loss_of(model, batch))
            auto.step()
        return torch.cat([p.detach().flatten() for p in model.parameters()]), rows, largest

    whole, order, _ = trained()
    cut, same, largest = trained(max_tokens=200)
    assert order == same and sorted(order) == sorted(2 * list(range(N)))
    assert largest <= 200 and torch.allclose(whole, cut, rtol=1e-10)


def test_lengths_follow_parts_workers_and_draws() -> None:
    source = as_source(with_workers(TEXTS, 1, collate=padded), lengths=LENGTHS, group_by_length=True, max_tokens=100)
    train, valid = hold_out(source, 0.3)
    rows = []
    for part in (train, valid):
        stream = BatchStream(part, 3)
        interval = stream.take(len(part))
        sizes = part.passes(stream.order, interval, [interval.samples], 1)
        for size in sizes:
            place = type(interval)(0, interval.start, interval.start + size)
            batch = stream.fetch(place)
            rows += batch["row"].tolist()
            assert batch["ids"].numel() <= 100
            interval = type(interval)(0, place.stop, interval.stop)
    assert sorted(rows) == list(range(N))
    loader = DataLoader(TEXTS, collate_fn=padded, sampler=WeightedRandomSampler(torch.ones(N), 100))
    drawn = as_source(loader, lengths=LENGTHS, max_tokens=100)
    order = drawn.order(4)
    batch = drawn.fetch_interval(order, 1, 0, 100)
    sizes = drawn.passes(order, (1, 0, 100), [100], 1)
    lengths = (batch["ids"] > 0).sum(1).tolist()
    assert sizes == cut_by_tokens(np.array(lengths), [100], 100)
    with pytest.raises(DataError, match="sampler decides the order"):
        as_source(loader, lengths=LENGTHS, group_by_length=True)


def test_sequential_order() -> None:
    data = (torch.arange(50.0)[:, None], torch.arange(50))
    stream = BatchStream(as_source(data, order="sequential"), seed=9)
    assert stream.fetch(stream.take(50))[1].tolist() == list(range(50))
    plain = as_source(data)
    as_source(plain, order="sequential")
    assert plain.shuffle
    train, _ = hold_out(as_source(data, order="sequential"), 0.2)
    assert not train.shuffle
    with pytest.raises(InputError, match="order must be 'sequential'"):
        as_source(data, order="random")


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"group_by_length": True}, InputError, "need lengths="),
        ({"max_tokens": 100}, InputError, "need lengths="),
        ({"lengths": LENGTHS[:5], "max_tokens": 100}, InputError, "must be 300 whole numbers"),
        ({"lengths": LENGTHS / 2, "max_tokens": 100}, InputError, "of type float64"),
        ({"lengths": -LENGTHS, "max_tokens": 100}, InputError, "at least 0"),
        ({"lengths": LENGTHS, "max_tokens": 7}, InputError, "raise it, or truncate"),
        ({"lengths": LENGTHS, "max_tokens": 0.5}, InputError, "max_tokens must be a whole number"),
    ],
)
def test_refused(given: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        as_source(TEXTS, collate=padded, **given)


def crops(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, 2, generator=generator)
    return x, x.sum(1, keepdim=True)


def test_samples_on_demand_are_held_for_a_step_and_never_return() -> None:
    stream = BatchStream(from_generator(crops, 100), seed=1)
    interval = stream.take(8)
    first = stream.fetch(interval)
    assert stream.fetch(interval) is first
    stream.discard_consumed()
    assert not torch.equal(stream.fetch(stream.take(8))[0], first[0])
    again = BatchStream(from_generator(crops, 100), seed=1)
    assert torch.equal(again.fetch(again.take(8))[0], first[0])
    other = BatchStream(from_generator(crops, 100), seed=2)
    assert not torch.equal(other.fetch(other.take(8))[0], first[0])
    for _ in range(40):
        stream.discard_consumed()
        stream.fetch(stream.take(20))
    assert len(stream.source._held) <= 2  # type: ignore[attr-defined]


def test_training_on_samples_on_demand_resumes_bit_for_bit() -> None:
    def loop(model: nn.Module) -> rightbatch.AutoBatch:
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        return rightbatch.AutoBatch(model, optimizer, from_generator(crops, 64), batch_size=16, seed=3, epochs=4)

    def train(model: nn.Module, auto: rightbatch.AutoBatch, steps: int) -> None:
        for x, y in auto:
            auto.backward(((model(x) - y) ** 2).mean())
            if auto.step() and auto.steps == steps:
                return

    torch.manual_seed(0)
    whole, part = nn.Linear(2, 1), nn.Linear(2, 1)
    part.load_state_dict(whole.state_dict())
    auto = loop(whole)
    train(whole, auto, 16)
    first = loop(part)
    train(part, first, 7)
    resumed = nn.Linear(2, 1)
    resumed.load_state_dict(part.state_dict())
    second = loop(resumed)
    second.load_state_dict(first.state_dict())
    train(resumed, second, 16)
    assert torch.equal(whole.weight, resumed.weight) and auto.samples == second.samples == 256
    run = rightbatch.fit(nn.Linear(2, 1), from_generator(crops, 500), epochs=3, progress=False)
    assert run.history[-1]["train_loss"] < 0.1


@pytest.mark.parametrize(
    ("generate", "length", "error", "message"),
    [
        (lambda n, g: torch.zeros(n + 1), 10, DataError, "returned 3 samples, 2 were requested"),
        (lambda n, g: "text", 10, DataError, "without tensors"),
        (crops, 1, InputError, "length"),
    ],
)
def test_functions_that_are_refused(generate: Any, length: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        from_generator(generate, length)
