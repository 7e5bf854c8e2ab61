"""The benchmark of mini-batches counts every sample once in each way, and its tables are whole."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

from rightbatch.data.nest import leaves

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = importlib.import_module("data")
    monkeypatch.setattr(module, "ROUNDS", 1)
    monkeypatch.setattr(module, "PASSES", 1)
    monkeypatch.setattr(module, "ROWS", 4000)
    return module


def kinds(data: ModuleType, folder: Path) -> dict[str, object]:
    loaders = importlib.import_module("loaders")
    loaders.write_rows(folder, 600, 3)
    return {"tensors": loaders.in_memory(600, 3), "rows": loaders.MappedRows(folder)}


@pytest.mark.parametrize("kind", ["tensors", "rows"])
def test_an_epoch_of_every_way_has_every_sample_once(data: ModuleType, tmp_path: Path, kind: str) -> None:
    dataset = kinds(data, tmp_path)[kind]
    expected = torch.stack([dataset[row][0] for row in range(600)])
    for name, way in {"tensors": data.MEMORY_WAYS, "rows": data.DISK_WAYS}[kind].items():
        epoch = way(data.Work(dataset, 32))
        for _ in range(2):
            batches = [next(leaves(batch)) for batch in epoch()]
            assert {len(x) for x in batches} == {32, 600 % 32}, name
            rows = torch.cat(batches)
            assert not rows.equal(expected), name
            assert rows[rows[:, 0].argsort()].equal(expected[expected[:, 0].argsort()]), name


@pytest.mark.parametrize("batch", [None, 256])
def test_a_pass_of_every_way_of_a_stream_has_every_sample_in_its_order(
    data: ModuleType, batch: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaders = importlib.import_module("loaders")
    monkeypatch.setattr(loaders, "EPOCH", 600)
    tensors = loaders.in_memory(600, 3)
    ways = data.STREAM_WAYS if batch is None else {data.OURS: loaders.as_it_comes, "theirs": data.loader_of_batches}
    for name, way in ways.items():
        epoch = way(data.Work(loaders.Rows(tensors, batch), 32))
        for _ in range(2):
            assert torch.cat([x for x, _ in epoch()]).equal(tensors.tensors[0]), name


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_taken_over_has_every_sample_once(data: ModuleType, workers: int) -> None:
    loaders = importlib.import_module("loaders")
    tensors = loaders.in_memory(200, 3)
    for name, way in data.LOADER_WAYS.items():
        rows = torch.cat([x for x, _ in way(data.Work(data.Items(tensors), 32, workers))()])
        assert rows[rows[:, 0].argsort()].equal(tensors.tensors[0][tensors.tensors[0][:, 0].argsort()]), name


def test_tables_are_whole(data: ModuleType, tmp_path: Path) -> None:
    loaders = importlib.import_module("loaders")
    work = data.Work(loaders.Pictures(40), 16)
    rows = list(data.throughput("pictures", work, {way: data.WAYS[way] for way in ("rightbatch", "DataLoader")}))
    loaders.write_rows(tmp_path, 4000, 100)
    rows += data.from_disk(tmp_path)
    assert len(rows) == 2 + len(data.DISK_WAYS)
    assert rows[0].startswith("| pictures | rightbatch | ") and "**" not in rows[0]
    assert "**" in rows[1] and all(row.count("|") == rows[0].count("|") for row in rows[:2])
    assert all(row.count("|") == 6 for row in rows[2:])


def test_a_resumed_batch_is_the_one_that_would_have_come(data: ModuleType) -> None:
    source = data.Many(10**10)
    stream = data.BatchStream(source)
    stream.seek(0, 9 * 10**9)
    state = stream.state_dict()
    assert data.first_batch(source, state).equal(stream.fetch(stream.take(data.BATCH))[0])
