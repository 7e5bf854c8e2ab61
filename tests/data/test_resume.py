"""Training broken off in mid-epoch and gone on with: bit for bit what it would have been, wherever the data are."""

import itertools
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from rightbatch import fit
from rightbatch.data import (
    GroupLoss,
    as_groups,
    as_source,
    as_stream,
    blocks,
    hold_out,
    opening,
    with_workers,
)
from rightbatch.data.formats import npy_rows
from rightbatch.data.formats.column_source import ColumnSource
from rightbatch.data.formats.memory_map import MemoryMapSource
from rightbatch.data.prepared import PreparedSource
from rightbatch.fitting.checkpoint import load_checkpoint
from rightbatch.record import verify_ledger

N = 120
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(N, 4)).astype(np.float32)
Y = (X @ RANDOM.normal(size=(4, 3))).argmax(1)


class Jittered(Dataset[Any]):
    """Items with noise of all three generators; groups of 1 to 5 members if wanted."""

    def __init__(self, groups: bool = False) -> None:
        self.groups = groups

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> Any:
        noise = 0.1 * (torch.randn(4) + float(np.random.randn()) + random.gauss(0, 1))
        if not self.groups:
            return torch.from_numpy(X[index]) + noise, int(Y[index])
        rows = np.arange(index, index + 1 + index % 5) % N
        return torch.from_numpy(X[rows]) + noise, torch.from_numpy(Y[rows])


def table(folder: Path) -> Any:
    """Twelve row groups, of which six fit in memory: windows of three."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {f"x{i}": X[:, i] for i in range(4)}
    pq.write_table(pa.table({**columns, "y": Y}), folder / "set.parquet", row_group_size=10)
    source = as_source(folder / "set.parquet", target="y")
    assert isinstance(source, PreparedSource) and isinstance(source.raw, ColumnSource)
    assert (len(source.block_ends), source.window) == (12, 3)
    return source


def part_of_a_table(folder: Path) -> Any:
    return hold_out(table(folder), 0.1, seed=1)[0]


def shards(folder: Path) -> Any:
    for number, rows in enumerate(np.split(np.arange(N), [50, 70])):
        np.save(folder / f"x-{number}.npy", X[rows])
        np.save(folder / f"y-{number}.npy", Y[rows])
    source = as_source(folder)
    assert isinstance(source, MemoryMapSource) and "on demand" in source.describe()
    return source


def groups(folder: Path) -> Any:
    group = np.arange(3 * N) % N
    return as_groups((np.tile(X, (3, 1)), np.tile(Y, 3), group), 2, foreground=0.5)


def groups_of_a_table(folder: Path) -> Any:
    group = np.arange(3 * N) % N
    return as_groups((table(folder), np.tile(X, (3, 1)), np.tile(Y, 3), group), 2)


class Stream(IterableDataset[Any]):
    """The rows of one pass, in a sequence that depends on its number, one by one or three at a time."""

    def __init__(self, batched: bool = False) -> None:
        self.batched = batched
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def rows(self, start: int) -> Iterator[Any]:
        rows = np.roll(np.arange(N), 7 * self.epoch)
        for at in range(start, N, 3 if self.batched else 1):
            taken = rows[at : at + 3] if self.batched else rows[at]
            yield torch.from_numpy(X[taken]), torch.as_tensor(Y[taken])

    def __iter__(self) -> Iterator[Any]:
        return self.rows(0)


class Stateful(Stream):
    """Tells where it is, and goes on from there."""

    start = at = 0

    def __iter__(self) -> Iterator[Any]:
        start, self.start = self.start, 0
        for number, item in enumerate(self.rows(start), 1):
            self.at = start + number * (3 if self.batched else 1)
            yield item

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.start = state["at"]


KINDS: dict[str, Callable[[Path], Any]] = {
    "Parquet in windows": table,
    "a part of Parquet in windows": part_of_a_table,
    "Dataset, two workers": lambda folder: with_workers(Jittered(), 2),
    "shards": shards,
    "groups": groups,
    "groups over Parquet in windows": groups_of_a_table,
    "groups of a Dataset, two workers": lambda folder: with_workers(as_groups(Jittered(groups=True), 3), 2),
    "a stream": lambda folder: as_stream(Stream(), 110),
    "a stream of batches that tells its place": lambda folder: as_stream(Stateful(batched=True), 110, batched=True),
    "a loader with a worker": lambda folder: as_stream(DataLoader(Stateful(), batch_size=None, num_workers=1), 110),
}
RULES: dict[str, dict[str, Any]] = {
    "fixed": {"batch_size": 16, "optimizer": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)},
    "from noise": {
        "batch_size": "gradient-noise-scale(initial=8, max_size=40)",
        "lr": "noise-scaled(lr=0.05)",
        "noise": "micro-batch(every=3)",
        "optimizer": torch.optim.AdamW,
    },
}


class Members(nn.Module):
    """The same layers over the last dimension, of inputs that hold a shared part or none."""

    def __init__(self, packing: Any) -> None:
        super().__init__()
        self.packing = packing
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        if self.packing is not None:
            shared, x = self.packing.unpack(x)
            x = x + shared[:, None]
        out: Tensor = self.layers(x)
        return out


class Broken(Exception):
    """Ends a run from within."""


@pytest.fixture(autouse=True)
def nothing_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "WHOLE_BYTES", 0)
    monkeypatch.setattr(npy_rows, "RESIDENT_BYTES", 0)
    monkeypatch.setattr(blocks, "WINDOW_BYTES", 6 * 10 * (4 * 4 + 8))
    monkeypatch.setattr("rightbatch.fitting.recorder.write_report", lambda path: path / "report.html")


def train(source: Any, run_dir: Path, stop_at: int | None = None, resume: bool = False, **rule: Any) -> Any:
    """Two epochs; broken off in the forward pass of a training step if wanted, all checkpoints before written."""
    passes = itertools.count()
    grouped = source.loss is not None
    of_members = GroupLoss() if grouped else nn.CrossEntropyLoss()

    def loss(output: Tensor, target: Tensor) -> Tensor:
        if torch.is_grad_enabled() and next(passes) == stop_at:
            raise Broken
        return of_members(output, target)

    model = Members(getattr(getattr(source, "source", source), "packing", None))
    every = 1e-9 if stop_at is not None else 600.0
    return fit(
        model,
        source,
        loss=loss,
        epochs=2,
        run_dir=run_dir,
        resume=resume,
        checkpoint_every=every,
        progress=False,
        **rule,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="data sets of this file cannot be sent to new processes")
@pytest.mark.parametrize(
    ("kind", "rule"),
    [(kind, "fixed") for kind in KINDS]
    + [
        (kind, "from noise")
        for kind in (
            "Parquet in windows",
            "Dataset, two workers",
            "groups over Parquet in windows",
            "a stream of batches that tells its place",
        )
    ],
)
def test_a_run_broken_off_goes_on_bit_for_bit(kind: str, rule: str, tmp_path: Path) -> None:
    """Broken off in the first epoch and again in the second, in batches that end where nothing else does."""
    (data := tmp_path / "data").mkdir()
    whole = train(KINDS[kind](data), tmp_path / "straight", **RULES[rule])
    n, steps = len(KINDS[kind](data)), max(row["step"] for row in whole.history)
    run = tmp_path / "broken"
    for stop_at, resume in ((3, False), (steps // 2, True)):
        with pytest.raises(Broken):
            train(KINDS[kind](data), run, stop_at, resume, **RULES[rule])
        assert 0 < load_checkpoint(run / "checkpoint.pt")["auto"]["stream"]["position"] < n
        for generator in (torch.manual_seed, random.seed, np.random.seed):
            generator(99)
    again = train(KINDS[kind](data), run, resume=True, **RULES[rule])
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in again.model.state_dict().items())
    assert not torch.equal(expected["layers.0.weight"], Members(None).state_dict()["layers.0.weight"])
    report = verify_ledger(run / "ledger.txt", n)
    assert report.ok and report.complete_epochs == 2
    assert (run / "ledger.txt").read_text().count("rewind") == 2


@pytest.mark.skipif(sys.platform == "win32", reason="data sets of this file cannot be sent to new processes")
def test_a_run_goes_on_with_another_number_of_workers(tmp_path: Path) -> None:
    whole = train(with_workers(Jittered(), 2), tmp_path / "straight", **RULES["fixed"])
    with pytest.raises(Broken):
        train(with_workers(Jittered(), 1), tmp_path / "broken", 5, **RULES["fixed"])
    again = train(with_workers(Jittered(), 3), tmp_path / "broken", resume=True, **RULES["fixed"])
    assert all(map(torch.equal, again.model.state_dict().values(), whole.model.state_dict().values()))
