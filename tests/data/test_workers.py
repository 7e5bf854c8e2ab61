"""Worker processes: the same samples as without, whatever the batch sizes, seeks, errors and kills."""

import os
import pickle
import random
import signal
import subprocess
import sys
import time
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset, TensorDataset

from rightbatch.data import BatchStream, Interval, as_source, hold_out, with_workers
from rightbatch.data.workers import source as worker_source
from rightbatch.data.workers.pool import seed_item
from rightbatch.data.workers.source import Chunk, WorkerSource
from rightbatch.errors import DataError, InputError

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="data sets of this file cannot be sent to new processes"
)
N = 200


class Squares(Dataset[Any]):
    """x = (i, i²), y = i mod 3; item `bad` cannot be had."""

    def __init__(self, n: int = N, bad: int | None = None, pid: bool = False) -> None:
        self.n, self.bad, self.pid = n, bad, pid

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Any:
        if index == self.bad:
            raise ValueError("no such luck")
        return np.array([index, os.getpid() if self.pid and index else index**2], np.float64), index % 3


class Noisy(Squares):
    """Items with random numbers of all three generators."""

    def __getitem__(self, index: int) -> Any:
        return torch.tensor([index, random.random(), np.random.rand(), torch.rand(()).item()]), 0


def first_numbers(items: list[Any]) -> torch.Tensor:
    """The first parts of pairs."""
    return torch.tensor([x[0] for x, _ in items])


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_source, "CHUNK_SAMPLES", 7)
    monkeypatch.setattr(worker_source, "LEAST_CHUNKS", 1)


@pytest.fixture(scope="module")
def two() -> WorkerSource:
    """Two workers with chunks of 6 and few slots, shared by tests that only fetch."""
    source = with_workers(Squares(), 2)
    assert isinstance(source, WorkerSource)
    return source


def test_examples_by_index(two: WorkerSource) -> None:
    plain = as_source(Squares())
    for rows in (range(N), [5, 5, 199, 0]):
        indices = torch.tensor(list(rows), dtype=torch.int64)
        for found, expected in zip(two.fetch(indices), plain.fetch(indices), strict=True):
            assert torch.equal(found, expected) and found.dtype == expected.dtype
    assert "Squares; 2 worker processes" in two.describe()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2),
    steps=st.lists(st.integers(1, 90) | st.tuples(st.integers(0, 2), st.integers(0, N - 1)), max_size=12),
)
def test_any_sizes_and_seeks_give_what_no_workers_give(two: WorkerSource, seed: int, steps: list[Any]) -> None:
    streams = BatchStream(two, seed), BatchStream(as_source(Squares()), seed)
    for step in steps:
        if isinstance(step, tuple):
            for stream in streams:
                stream.seek(*step)
            continue
        (x, y), (x_expected, y_expected) = (stream.fetch(stream.take(step)) for stream in streams)
        assert torch.equal(x, x_expected) and torch.equal(y, y_expected)


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_and_evaluations_in_turn_with_few_slots(
    monkeypatch: pytest.MonkeyPatch, small_chunks: None, workers: int
) -> None:
    monkeypatch.setattr(worker_source, "BUFFER_BYTES", 1)
    train, valid = hold_out(with_workers(Squares(), workers), 0.2, seed=1)
    plain_train, plain_valid = hold_out(as_source(Squares()), 0.2, seed=1)
    stream, plain = BatchStream(train), BatchStream(plain_train)
    for size in (1, 30, 8, 64, 200, 3, 150):
        pairs = [(s.fetch(s.take(size)), v.fetch(torch.arange(40))) for s, v in ((stream, valid), (plain, plain_valid))]
        for found, expected in zip(*pairs, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_chunks_are_foreseen(small_chunks: None) -> None:
    source = with_workers(Squares(50))
    assert isinstance(source, WorkerSource)

    def foreseen(start: int, stop: int, step: int, count: int) -> list[tuple[int, int]]:
        chunks = source._foreseen(50, Chunk(0, start // 7 * 7, start // 7 * 7 + 7), 0, start, stop, step)
        return [(chunk.epoch, chunk.start) for _, chunk in zip(range(count), chunks, strict=False)]

    assert foreseen(0, 10, 10, 8) == [(0, 7), (0, 14), (0, 21), (0, 28), (0, 35), (0, 42), (0, 49), (1, 0)]
    # Every other interval is another process's.
    assert foreseen(0, 7, 21, 3) == [(0, 21), (0, 42), (1, 7)]
    assert foreseen(0, 1, 2, 8) == [*((0, start) for start in range(7, 49, 7)), (1, 0), (1, 7)]
    assert foreseen(0, 1, 30, 3) == [(0, 28), (1, 7), (1, 35)]


def test_fetching_is_ahead_and_in_other_processes() -> None:
    source = with_workers(Squares(pid=True), 2)
    stream = BatchStream(source)
    x, _ = stream.fetch(stream.take(100))
    assert os.getpid() not in x[x[:, 0] > 0, 1].tolist()
    family = source._family
    held = {chunk.start for *_, chunk in family._held}
    assert max(held) >= 100 and len(held) > 100 // family.samples


def test_random_numbers_depend_on_seed_epoch_and_item_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(workers: int, seed: int = 5, epoch: int = 1) -> Any:
        stream = BatchStream(with_workers(Noisy(), workers), seed)
        stream.seek(epoch, 0)
        x, _ = stream.fetch(stream.take(N))
        return x[x[:, 0].argsort()]

    first = run(1)
    monkeypatch.setattr(worker_source, "CHUNK_SAMPLES", 3)
    assert torch.equal(run(3), first)
    for other in (run(1, seed=6), run(1, epoch=2)):
        assert (other[:, 1:] != first[:, 1:]).all()
    assert (first[:, 1:].unique(dim=0).shape[0]) == N
    stream = BatchStream(with_workers(Noisy(), 2))
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    stream.fetch(stream.take(N))
    assert torch.equal(torch.get_rng_state(), state[0]) and random.getstate() == state[1]
    assert np.random.get_state()[1].tolist() == state[2]


def test_a_seed_gives_the_same_numbers_everywhere() -> None:
    """Known values: a change would change every run with random augmentations."""
    states = [torch.get_rng_state(), random.getstate(), np.random.get_state()]
    seed_item(0, 0, 0)
    found = random.random(), float(np.random.rand()), torch.rand(()).item()
    torch.set_rng_state(states[0])
    random.setstate(states[1])
    np.random.set_state(states[2])
    assert found == pytest.approx((0.5736905358352234, 0.1336939064030267, 0.596306562423706))


def test_an_error_names_the_item_and_comes_when_it_is_wanted() -> None:
    stream = BatchStream(with_workers(Squares(bad=137), 2), shuffle=False)
    seen = 0
    with pytest.raises(DataError, match=r"^item 137 failed: ValueError: no such luck") as caught:
        while True:
            seen += len(stream.fetch(stream.take(5))[0])
    assert 130 <= seen <= 137 and "in __getitem__" in "".join(caught.value.__notes__)
    stream.seek(0, 150)
    assert stream.fetch(stream.take(3))[0][:, 0].tolist() == [150, 151, 152]


def test_items_of_another_shape_are_refused() -> None:
    class Ragged(Squares):
        def __getitem__(self, index: int) -> Any:
            return torch.zeros(2 + (index >= 150)), 0

    with pytest.raises(DataError, match=r"all must be alike|cannot be collated"):
        with_workers(Ragged(), 1).fetch(torch.arange(N))


def test_a_killed_worker_is_told_and_replaced() -> None:
    source = with_workers(Squares(pid=True), 2)
    pids = {int(pid) for pid in source.fetch(torch.arange(1, N))[0][:, 1].tolist()}
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for attempt in range(3):
        try:
            x, _ = source.fetch(torch.arange(N))
            break
        except DataError as error:
            assert attempt < 2 and "exit code -9" in str(error)
    assert x[:, 0].tolist() == list(range(N)) and not pids & {int(pid) for pid in x[1:, 1].tolist()}


def test_signals_meant_for_the_parent_do_not_end_workers() -> None:
    source = with_workers(Squares(pid=True), 1)
    pid = int(source.fetch(torch.tensor([1]))[0][0, 1])
    for sent in (signal.SIGTERM, signal.SIGINT):
        os.kill(pid, sent)
    assert int(source.fetch(torch.tensor([1]))[0][0, 1]) == pid


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def gone(pids: set[int], within_s: float = 8.0) -> bool:
    until = time.monotonic() + within_s
    while any(alive(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    return not any(alive(pid) for pid in pids)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up as Linux has them")
def test_workers_end_with_their_source() -> None:
    source = with_workers(Squares(pid=True), 2)
    pids = {int(pid) for pid in source.fetch(torch.arange(1, N))[0][:, 1].tolist()}
    assert all(alive(pid) for pid in pids)
    del source
    assert gone(pids, 1.0)


PARENT = """
import os, sys, time, torch
from torch.utils.data import Dataset
from rightbatch.data import BatchStream, with_workers

class Pids(Dataset):
    def __len__(self): return 100
    def __getitem__(self, index): return torch.tensor([os.getpid()], dtype=torch.int32), 0

stream = BatchStream(with_workers(Pids(), 2))
pids = set(stream.fetch(stream.take(100))[0].flatten().tolist()) - {os.getpid()}
print(*pids, flush=True)
if sys.argv[1] == "error": raise SystemExit(3)
if sys.argv[1] != "end": time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up as Linux has them")
@pytest.mark.parametrize(
    "how",
    [
        "end",
        "kill",
        pytest.param("error", marks=pytest.mark.nightly),
        pytest.param("terminate", marks=pytest.mark.nightly),
    ],
)
def test_workers_end_with_their_parent(how: str) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, how], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = {int(pid) for pid in parent.stdout.readline().split()}
    assert pids
    if how == "kill":
        parent.kill()
    if how == "terminate":
        parent.terminate()
    parent.stdout.close()
    assert parent.wait(20) == {"end": 0, "error": 3, "kill": -9, "terminate": -15}[how]
    assert gone(pids)


def test_new_processes_take_what_can_be_pickled(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32), np.arange(300) % 2
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    source = with_workers(tmp_path, 1, method="spawn")
    stream, plain = BatchStream(source, 3), BatchStream(as_source((x, y)), 3)
    for size in (10, 100):
        found, expected = (s.fetch(s.take(size)) for s in (stream, plain))
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    again = pickle.loads(pickle.dumps(source))
    assert torch.equal(again.fetch(torch.tensor([7]))[0], torch.from_numpy(x[[7]]))


def test_new_processes_need_no_collate_function() -> None:
    source = with_workers(Squares(20), 1, method="spawn", collate=lambda items: torch.tensor([x[0] for x, _ in items]))
    assert source.fetch(torch.tensor([7, 3])).tolist() == [7.0, 3.0]


def test_a_collate_function_is_sent_elsewhere() -> None:
    """Only workers do without it, not a process of the user's."""
    sent = pickle.loads(bytes(ForkingPickler.dumps(as_source(Squares(), collate=first_numbers))))
    assert sent.fetch(torch.tensor([7, 3])).tolist() == [7.0, 3.0]
    with pytest.raises((AttributeError, pickle.PicklingError)):
        pickle.dumps(as_source(Squares(), collate=lambda items: torch.tensor([x[0] for x, _ in items])))


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_data_set_that_cannot_be_sent_is_refused(method: str) -> None:
    data = Squares()
    data.transform = lambda x: x  # type: ignore[attr-defined]
    source = with_workers(data, 2, method=method)
    with pytest.raises(DataError, match="cannot be sent to worker processes"):
        source.fetch(torch.tensor([7]))


def test_what_is_not_given_to_workers(two: WorkerSource) -> None:
    tensors = as_source(TensorDataset(torch.zeros(4, 1), torch.zeros(4)))
    assert with_workers(tensors) is tensors and with_workers(two, 3) is two
    for workers in (0, -1, 1.5, True):
        with pytest.raises(InputError, match="workers must be a whole number of at least 1"):
            with_workers(Squares(), workers)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="method='thread' is not available"):
        with_workers(Squares(), method="thread")
    tensors.block_ends = np.array([4])  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="read in blocks"):
        with_workers(tensors)
    with pytest.raises(InputError, match="out of range"):
        BatchStream(two).fetch(Interval(0, 5, N + 1))
