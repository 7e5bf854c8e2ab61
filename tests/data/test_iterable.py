"""Streams: the samples as they come, once each, whatever the batches, and back to any place."""

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from rightbatch.data import (
    BatchStream,
    Interval,
    IterableSource,
    as_groups,
    as_source,
    as_stream,
    hold_out,
    with_workers,
)
from rightbatch.data.streams import source as iterable_module
from rightbatch.errors import DataError, InputError

LENGTH = 60


class Counted(IterableDataset[tuple[float, int]]):
    """n samples, numbered throughout all passes, so that position p of all has x = y = p; counts what it hands out."""

    def __init__(self, n: int = 47) -> None:
        self.n = n
        self.begun: list[int] = []
        self.epoch = self.handed_out = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[float, int]]:
        self.begun.append(self.epoch)
        return self.items(0)

    def items(self, start: int) -> Iterator[tuple[float, int]]:
        for i in range(start, self.n):
            self.handed_out += 1
            yield self.sample(self.epoch * self.n + i)

    def sample(self, number: int) -> Any:
        return float(number), number


class Batches(Counted):
    """As batches of 7, the last of a pass of fewer."""

    def items(self, start: int) -> Iterator[Any]:
        for i in range(7 * start, self.n, 7):
            self.handed_out += 1
            numbers = torch.arange(i, min(i + 7, self.n)) + self.epoch * self.n
            yield numbers.float(), numbers


class Stateful(Counted):
    """Says where it is."""

    loaded: dict[str, int] | None = None
    at = 0

    def __iter__(self) -> Iterator[tuple[float, int]]:
        self.begun.append(self.epoch)
        start, self.loaded = (self.loaded["at"] if self.loaded else 0), None
        for at, item in enumerate(self.items(start), start + 1):
            self.at = at
            yield item

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.loaded = state


class StatefulBatches(Batches):
    __iter__, state_dict, load_state_dict = Stateful.__iter__, Stateful.state_dict, Stateful.load_state_dict
    loaded: dict[str, int] | None = None
    at = 0


class Unstorable(Stateful):
    """Its state is none that may be loaded without executing something."""

    def state_dict(self) -> Any:
        return {"at": self.at, "generator": np.random.default_rng(0)}


PLACE = {"own": None, "start": 31, "pass": 0, "items": 31}
KINDS = (Counted, Batches, Stateful, StatefulBatches, Unstorable)


def batches(kind: type[Counted], **options: Any) -> BatchStream:
    return BatchStream(as_stream(kind(), LENGTH, batched=issubclass(kind, Batches)), **options)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=20),
    saved_at=st.integers(0, 19),
    within=st.booleans(),
    parts=st.integers(1, 5),
)
def test_each_sample_once_in_its_order_for_any_sizes_with_a_resume(
    kind: type[Counted], sizes: list[int], saved_at: int, within: bool, parts: int
) -> None:
    stream = batches(kind)
    seen: list[int] = []
    for number, size in enumerate(sizes):
        stream.discard_consumed()
        place = stream.epoch, stream.position
        taken = stream.take(size)
        if number == saved_at:
            if within:  # in the midst of a batch, which is begun again
                stream.fetch(taken._replace(stop=taken.start + (taken.samples + 1) // 2))
            state = stream.state_dict(place)
            stream = batches(kind)
            stream.load_state_dict(state)
            assert (stream.epoch, stream.position) == place
            taken = stream.take(size)
        marks = [taken.start + taken.samples * i // parts for i in range(parts + 1)]
        got = [stream.fetch(taken._replace(start=a, stop=b)) for a, b in pairwise(marks) if b > a]
        again = stream.fetch(taken)  # for a trial step
        assert torch.equal(torch.cat([x for x, _ in got]), again[0]) and torch.equal(again[0].long(), again[1])
        seen += again[1].tolist()
    assert seen == list(range(len(seen)))


def test_without_a_state_of_its_own_the_place_is_plain_numbers() -> None:
    stream = batches(Counted)
    stream.fetch(stream.take(50))
    stream.fetch(stream.take(30))
    state = json.loads(json.dumps(stream.state_dict()))
    again = batches(Counted)
    again.load_state_dict(state)
    assert again.fetch(again.take(3))[1].tolist() == [60, 61, 62]


@pytest.mark.parametrize(("kind", "most"), [(Counted, 2 + 43 + 1), (Stateful, 3), (Unstorable, 2 + 43 + 1)])
def test_coming_back_goes_through_what_lies_before_only_without_a_state(
    monkeypatch: pytest.MonkeyPatch, kind: type[Counted], most: int
) -> None:
    monkeypatch.setattr(iterable_module, "SAMPLE", 2)
    first = batches(kind)
    for _ in range(43):
        first.discard_consumed()
        first.fetch(first.take(1))
    stream = kind()
    again = BatchStream(as_stream(stream, LENGTH))
    again.load_state_dict(first.state_dict())
    assert again.fetch(again.take(1))[1].tolist() == [43]
    assert stream.handed_out <= most


def test_passes_begin_with_their_number_and_memory_is_that_of_a_batch() -> None:
    dataset = Counted()
    source = as_stream(dataset, LENGTH)
    stream = BatchStream(source)
    for _ in range(40):
        stream.discard_consumed()
        stream.fetch(stream.take(5))
        assert sum(len(chunk.rows[0]) for chunk in source._chunks) <= 10
    assert dataset.begun == [0, 1, 2, 3, 4]


def test_the_data_set_of_a_loader_is_told_the_pass() -> None:
    dataset = Counted(20)
    stream = BatchStream(as_stream(DataLoader(dataset, batch_size=None), LENGTH))
    assert stream.fetch(stream.take(LENGTH))[1].tolist() == list(range(LENGTH))
    assert dataset.begun == [0, 1, 2]


def test_the_sample_is_the_first_samples_also_after_coming_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iterable_module, "SAMPLE", 32)
    for kind in (Counted, Stateful):
        stream = batches(kind)
        assert isinstance(stream.source, IterableSource)
        assert stream.source.sample().y.tolist() == [0, 1]
        for _ in range(9):
            stream.discard_consumed()
            stream.fetch(stream.take(9))
        assert stream.source.sample().y.tolist() == list(range(32))
        again = batches(kind)
        again.load_state_dict(stream.state_dict())
        assert isinstance(again.source, IterableSource)
        assert torch.equal(again.source.sample().y, stream.source.sample().y)
        assert stream.source.fetch(torch.tensor([3, 1]))[1].tolist() == [3, 1]
        with pytest.raises(InputError, match="sample 32 by index"):
            stream.source.fetch(torch.tensor([32]))


def test_the_sample_grows_on_where_a_run_is_restarted() -> None:
    stream = batches(Counted)
    stream.fetch(stream.take(10))
    stream.discard_consumed()
    stream = BatchStream(stream.source)
    for _ in range(6):
        stream.discard_consumed()
        stream.fetch(stream.take(7))
    assert isinstance(stream.source, IterableSource)
    assert stream.source.sample().y.tolist() == list(range(35))


def test_a_place_among_restored_samples_survives_an_error_of_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the samples that came with a saved state nobody knows which items they were; they are saved again."""

    monkeypatch.setattr(iterable_module, "SAMPLE", 2)

    class Failing(StatefulBatches):
        fails = False

        def items(self, start: int) -> Iterator[Any]:
            for item in super().items(start):
                if self.fails and item[1][0] >= 35:
                    raise OSError("the line is down")
                yield item

    first = BatchStream(as_stream(Failing(), LENGTH, batched=True))
    first.fetch(first.take(30))
    first.discard_consumed()
    for _ in range(2):
        state = first.state_dict()
        dataset = Failing()
        again = BatchStream(as_stream(dataset, LENGTH, batched=True))
        again.load_state_dict(state)
        dataset.fails = True
        with pytest.raises(OSError, match="the line is down"):
            again.fetch(Interval(0, 30, 36))
        dataset.fails = False
        again.discard_consumed()
        first = again
    assert first.fetch(Interval(0, 30, 47))[1].tolist() == list(range(30, 47))


def rows_of(buffer: Any) -> Iterator[tuple[Any, int]]:
    """Rows of a buffer that is filled anew when all have been given."""
    for i in range(0, 20, 4):
        buffer[:] = torch.arange(i, i + 4) if isinstance(buffer, torch.Tensor) else np.arange(i, i + 4)
        for j in range(4):
            yield buffer[j], i + j


def one_array() -> Iterator[tuple[Any, Any]]:
    x, y = np.zeros(2, np.float32), torch.zeros((), dtype=torch.long)
    for i in range(20):
        x[:] = i
        yield x[0], y.fill_(i)


def one_mapping() -> Iterator[dict[str, Any]]:
    row: dict[str, Any] = {}
    for i in range(20):
        row.update(x=float(i), y=i)
        yield row


def one_list() -> Iterator[list[Any]]:
    pair: list[Any] = [0.0, 0]
    for i in range(20):
        pair[:] = float(i), i
        yield pair


@pytest.mark.parametrize(
    "stream",
    [
        one_array(),
        one_mapping(),
        one_list(),
        rows_of(torch.zeros(4)),
        rows_of(np.zeros(4, np.float32)),
        rows_of(torch.from_numpy(np.zeros(4, np.float32))),
    ],
    ids=["array", "mapping", "list", "tensor's rows", "array's rows", "array's rows as tensors"],
)
def test_a_stream_that_fills_the_same_again_and_again_gives_its_samples(stream: Iterator[Any]) -> None:
    batched = BatchStream(as_stream(stream, 20, columns=("x", "y") if stream.gi_code is one_mapping.__code__ else None))  # type: ignore[attr-defined]
    x, y = batched.fetch(batched.take(20))
    assert x.flatten().tolist() == y.tolist() == list(range(20))


class Sticky(Stateful):
    """Begins where the state loaded last says, again and again, as Hugging Face data sets do within an epoch."""

    fails_at = -1

    def __iter__(self) -> Iterator[tuple[float, int]]:
        start = self.loaded["at"] if self.loaded and self.loaded["epoch"] == self.epoch else 0
        for at, item in enumerate(self.items(start), start + 1):
            self.at = at
            yield item

    def sample(self, number: int) -> Any:
        if number == self.fails_at:
            self.fails_at = -1
            raise OSError("the line is down")
        return super().sample(number)

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at, "epoch": self.epoch}


def test_a_stream_that_keeps_a_loaded_state_gives_each_sample_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iterable_module, "SAMPLE", 2)
    first = BatchStream(as_stream(Sticky(100), 90))
    for _ in range(2):
        first.fetch(first.take(10))
        first.discard_consumed()
    dataset = Sticky(100)
    again = BatchStream(as_stream(dataset, 90))
    again.load_state_dict(first.state_dict())
    dataset.fails_at = 30
    taken = again.take(40)
    with pytest.raises(OSError, match="the line is down"):
        again.fetch(taken)
    assert again.fetch(taken)[1].tolist() == list(range(20, 60))
    for _ in range(2):
        restarted = BatchStream(again.source)
        assert restarted.fetch(restarted.take(25))[1].tolist() == list(range(25))
        restarted.discard_consumed()


class Shuffled(Stateful):
    """In another sequence each time it is begun, but for the one its state tells of; counts on in what it is given."""

    begun_times = 0

    def __iter__(self) -> Iterator[tuple[float, int]]:
        if self.loaded is None:
            self.begun_times += 1
            self.now = {"at": 0, "seed": self.begun_times}
        else:
            self.now, self.loaded = self.loaded, None
        order = np.random.default_rng(self.now["seed"]).permutation(self.n).tolist()
        while self.now["at"] < self.n:
            self.now["at"] += 1
            yield self.sample(order[self.now["at"] - 1])

    def state_dict(self) -> dict[str, int]:
        return self.now  # of which there is none before the first item


def test_a_stream_in_another_sequence_each_time_goes_on_in_that_of_its_state() -> None:
    whole = BatchStream(as_stream(Shuffled(50), 50))
    expected = [whole.fetch(whole.take(10))[1].tolist() for _ in range(5)]
    first = BatchStream(as_stream(Shuffled(50), 50))
    first.fetch(first.take(10))
    first.discard_consumed()
    state = first.state_dict()
    first.fetch(first.take(10))
    other = Shuffled(50)
    other.begun_times = 7
    again = BatchStream(as_stream(other, 50))
    again.load_state_dict(state)
    assert [again.fetch(again.take(10))[1].tolist() for _ in range(4)] == expected[1:]
    again.discard_consumed()
    with pytest.raises(InputError, match="initial state is unknown: pass a fresh"):
        BatchStream(again.source)


def test_errors_while_the_way_back_is_gone_are_told() -> None:
    fails_at = [30, 10]

    class Failing(Counted):
        def sample(self, number: int) -> Any:
            if fails_at and number == fails_at[0]:
                del fails_at[0]
                raise OSError("the line is down")
            return super().sample(number)

    stream = BatchStream(as_stream(Failing(100), LENGTH))
    taken = stream.take(50)
    for _ in range(2):
        with pytest.raises(OSError, match="the line is down"):
            stream.fetch(taken)
    assert stream.fetch(taken)[1].tolist() == list(range(50))


def test_an_iterator_comes_back_to_the_midst_of_a_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where another process has read less: the sample is behind the beginning of what was read at once."""
    monkeypatch.setattr(iterable_module, "SAMPLE", 12)
    first = BatchStream(as_stream(((float(i), i) for i in range(100)), 90))
    first.fetch(first.take(40))
    again = BatchStream(as_stream(((float(i), i) for i in range(100)), 90))
    again.load_state_dict(first.state_dict((0, 20)))
    assert again.fetch(again.take(3))[1].tolist() == [20, 21, 22]


@pytest.mark.skipif(sys.platform == "win32", reason="signals as Unix has them")
def test_workers_of_a_loader_do_not_hear_the_interruption_that_the_run_heeds() -> None:
    before = signal.getsignal(signal.SIGINT)
    loader = DataLoader(Stateful(), batch_size=None, num_workers=1, prefetch_factor=1)
    source = as_stream(loader, LENGTH)
    (worker,) = multiprocessing.active_children()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGINT)
    stream = BatchStream(source)
    assert stream.fetch(stream.take(40))[1].tolist() == list(range(40))
    assert signal.getsignal(signal.SIGINT) is before


def test_mappings_by_the_names_of_their_columns() -> None:
    rows = [{"label": i, "other": "text", "image": float(i)} for i in range(20)]
    stream = BatchStream(as_stream(rows, columns=("image", "label")))
    x, y = stream.fetch(stream.take(20))
    assert x.tolist() == y.tolist() == list(range(20))


def test_an_error_of_the_stream_loses_nothing() -> None:
    class Failing(Counted):
        fails = True

        def sample(self, number: int) -> Any:
            if number == 17 and self.fails:
                raise OSError("the line is down")
            return super().sample(number)

    dataset = Failing()
    stream = BatchStream(as_stream(dataset, LENGTH))
    taken = stream.take(30)
    with pytest.raises(OSError, match="the line is down"):
        stream.fetch(taken)
    dataset.fails = False
    assert stream.fetch(taken)[1].tolist() == list(range(30))


def test_an_iterator_ends_with_its_samples() -> None:
    stream = BatchStream(as_stream(((float(i), i) for i in range(25)), 20))
    stream.fetch(stream.take(20))
    with pytest.raises(DataError, match="generator ended after 25 items and cannot restart"):
        stream.fetch(stream.take(20))
    stream.discard_consumed()
    with pytest.raises(InputError, match="is past item 0 and cannot go back"):
        BatchStream(stream.source)


def test_an_iterator_given_anew_comes_back() -> None:
    def numbers() -> IterableSource:
        return as_stream(((float(i), i) for i in range(100)), 20)

    first = BatchStream(numbers())
    for _ in range(4):
        first.discard_consumed()
        first.fetch(first.take(17))
    again = BatchStream(numbers())
    again.load_state_dict(first.state_dict())
    assert again.fetch(again.take(2))[1].tolist() == first.fetch(first.take(2))[1].tolist()


def test_what_was_discarded_is_gone_until_the_stream_is_restarted() -> None:
    stream = batches(Counted)
    taken = stream.take(10)
    stream.discard_consumed()
    with pytest.raises(InputError, match="sample 0 has been discarded, the stream is at 10"):
        stream.fetch(taken)
    assert BatchStream(stream.source).fetch(taken)[1].tolist() == list(range(10))


def test_a_stream_that_became_shorter_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iterable_module, "SAMPLE", 2)
    first = batches(Counted)
    for _ in range(4):
        first.discard_consumed()
        first.fetch(first.take(10))
    again = BatchStream(as_stream(Counted(30), LENGTH))
    with pytest.raises(InputError, match="Counted has fewer items than when the run was saved: 1 are missing"):
        again.load_state_dict({**first.state_dict(), "stream": PLACE})


def test_loaders_tell_their_length_and_whether_they_give_batches() -> None:
    data = TensorDataset(torch.arange(10.0), torch.arange(10))
    for loader in (DataLoader(data, batch_size=4), DataLoader(data, batch_size=None), DataLoader(data, num_workers=1)):
        source = as_stream(loader)
        stream = BatchStream(source)
        assert len(source) == 10 and source.x_shape == () and source.describe().startswith("10 samples, x []")
        assert stream.fetch(stream.take(10))[1].tolist() == list(range(10))


def sample(x: Any, y: Any = 0) -> list[tuple[Any, Any]]:
    return [(x, y)]


class Unready(Counted):
    def __len__(self) -> int:
        raise NotImplementedError


class Unsized(Dataset[Any]):
    def __getitem__(self, index: int) -> Any:
        return 0.0, 0


@pytest.mark.parametrize(
    ("samples", "settings", "error", "message"),
    [
        (5, {"length": 5}, DataError, "int is not a stream of samples"),
        (torch.zeros(3, 2), {"length": 3}, DataError, "Tensor is not a stream of samples"),
        (
            TensorDataset(torch.zeros(3)),
            {"length": 3},
            DataError,
            r"TensorDataset is not .*: pass it as data",
        ),
        (Unready(), {}, InputError, "Unready has no length"),
        ([(1.0, 2)], {"length": 5, "columns": 5}, InputError, "columns must be the names .* got 5"),
        ({"x": 1}, {"length": 3}, DataError, "dict is not a stream of samples"),
        (Counted(), {}, InputError, "Counted has no length: pass length="),
        (Batches(), {"batched": True}, InputError, "Batches has no length"),
        (Counted(), {"length": 1}, InputError, "length is"),
        (Counted(), {"length": 2.5}, InputError, "length is"),
        (Counted(), {"length": 5, "batched": 1}, InputError, "batched must be True, False or None, got 1"),
        (Counted(0), {"length": 5}, DataError, "Counted is empty"),
        (iter([]), {"length": 5}, DataError, "ended after 0 items"),
        ([{"x": 1.0, "y": 0}], {"length": 5, "columns": "xy"}, InputError, "columns must be the names .* got 'xy'"),
        (
            [{"x": 1.0, "y": 0}],
            {"length": 5, "columns": ("x", "z")},
            DataError,
            "not in an item of list, which contains x, y",
        ),
        (
            [(1.0, 2.0)],
            {"length": 5, "columns": ("x", "y")},
            DataError,
            "list, which contains a tuple",
        ),
        ([("text", "more")], {"length": 5}, DataError, "item 0 of list contains no tensor"),
        ([(1.0, 2, 3), (1.0, 2)], {"length": 5}, DataError, "sample 1 of list has"),
        (Batches(), {"length": 5, "collate": list, "batched": True}, InputError, "collate= is for single samples"),
        (sample(float("nan")), {"length": 5}, DataError, "x of list, from sample 0 on, has 1 NaN"),
        (sample(1.0, float("inf")), {"length": 5}, DataError, "y of list, from sample 0 on, has 1 NaN"),
        (sample(1.0) + sample(torch.zeros(2)), {"length": 5}, DataError, "sample 1 of list has x \\[2\\]"),
        (sample(1.0) + sample(1), {"length": 5}, DataError, "sample 1 of list has x \\[\\] int64"),
        (
            sample(1.0),
            {"length": 5, "batched": True},
            DataError,
            "x \\[\\] float32, y \\[\\] int64, which is not a batch",
        ),
        (
            sample(torch.zeros(3), torch.zeros(2)),
            {"length": 5, "batched": True},
            DataError,
            "list returned x \\[3\\] float32, y \\[2\\] float32, which is not a batch",
        ),
    ],
)
def test_refused(samples: Any, settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        as_stream(samples, **settings)


def test_differing_samples_in_one_reading_are_refused() -> None:
    stream = BatchStream(as_stream([(torch.zeros(2 + i // 5), 0) for i in range(6)], 6))
    with pytest.raises(DataError, match="items of list cannot be collated"):
        stream.fetch(stream.take(6))


def test_what_streams_cannot_be_used_for_says_what_to_do() -> None:
    source = as_stream(Counted(), LENGTH)
    for use in (
        lambda: hold_out(source, 0.1),
        lambda: with_workers(source),
        lambda: as_groups((source, torch.zeros(4, 2), torch.zeros(4), torch.arange(4)), 1),
    ):
        with pytest.raises(DataError, match=r"a stream cannot be .*write_shards"):
            use()
    for data in (Counted(), (pair for pair in [(0.0, 1)]), DataLoader(Counted())):
        with pytest.raises(DataError, match=r"sequential access.*write_shards.*as_stream"):
            as_source(data)
    with pytest.raises(DataError, match="Unsized has no length"):
        as_source(Unsized())
