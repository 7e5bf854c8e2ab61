"""Folders of `.npy` shards, and rows of large files read without the file becoming resident."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rightbatch.data import BatchStream, as_source
from rightbatch.data.formats import npy_rows
from rightbatch.data.formats.memory_map import MemoryMapSource
from rightbatch.data.formats.npy_rows import NpyRows
from rightbatch.errors import DataError

X = np.random.default_rng(0).normal(size=(60, 2, 3)).astype(np.float32)
Y = np.arange(60) % 7


def shards(folder: Path, lengths: tuple[int, ...] = (10, 25, 1, 24), mark: str = "-", digits: int = 1) -> Path:
    folder.mkdir(exist_ok=True)
    stop = 0
    for number, length in enumerate(lengths, 9):  # 10 follows 9, which by spelling it does not
        start, stop = stop, stop + length
        np.save(folder / f"x{mark}{number:0{digits}}.npy", X[start:stop])
        np.save(folder / f"y{mark}{number:0{digits}}.npy", Y[start:stop])
    return folder


@pytest.fixture(params=[True, False], ids=["resident", "read"])
def resident(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if not request.param:
        monkeypatch.setattr(npy_rows, "RESIDENT_BYTES", 0)
        monkeypatch.setattr(npy_rows, "MOST_OPEN", 2)
    return bool(request.param)


@pytest.mark.parametrize(("mark", "digits"), [("-", 1), ("_", 5), (".part-", 1)])
def test_shards_are_one_array(tmp_path: Path, resident: bool, mark: str, digits: int) -> None:
    source = as_source(shards(tmp_path / "set", mark=mark, digits=digits))
    assert isinstance(source, MemoryMapSource) and len(source) == 60 and source.classes == 7
    assert "4 shards; read from disk" in source.describe() and ("on demand" in source.describe()) != resident
    for rows in (range(60), [59, 0, 35, 36, 34, 34, 10, 11, 12], []):
        x, y = source.fetch(torch.tensor(list(rows), dtype=torch.int64))
        assert np.array_equal(x, X[list(rows)]) and np.array_equal(y, Y[list(rows)])


@pytest.mark.parametrize("dtype", [">f8", "<f2", "u1", ">i4", "?", "i8"])
def test_every_type_and_both_byte_orders(tmp_path: Path, resident: bool, dtype: str) -> None:
    x = (X * 10).astype(np.int8).astype(dtype)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", Y)
    rows = torch.tensor([3, 59, 4, 5, 0])
    for expected, got in zip(as_source((x, Y)).fetch(rows), as_source(tmp_path).fetch(rows), strict=True):
        assert torch.equal(expected, got) and expected.dtype == got.dtype


def test_shards_travel_to_other_processes(tmp_path: Path, resident: bool) -> None:
    source = as_source(shards(tmp_path / "set"))
    source.fetch(torch.tensor([5]))
    again = pickle.loads(pickle.dumps(source))
    assert np.array_equal(again.fetch(torch.tensor([40, 2]))[0], X[[40, 2]])


def test_shards_that_do_not_fit(tmp_path: Path) -> None:
    folder = shards(tmp_path / "set")
    np.save(folder / "x-11.npy", X[:2])
    with pytest.raises(DataError, match=r"x-11\.npy has 2 samples and y-11\.npy has 1"):
        as_source(folder)
    np.save(folder / "x-11.npy", X[:1, :1])
    with pytest.raises(DataError, match=r"x-11\.npy has rows of shape \(1, 3\), x-9\.npy has \(2, 3\)"):
        as_source(folder)
    np.save(folder / "x-11.npy", X[:1].astype(np.float64))
    with pytest.raises(DataError, match=r"x-11\.npy has type float64, x-9\.npy has float32"):
        as_source(folder)
    (folder / "x-11.npy").write_bytes((folder / "x-10.npy").read_bytes()[:-1])
    with pytest.raises(DataError, match=r"x-11\.npy cannot be read .* truncated"):
        as_source(folder)
    (folder / "x-11.npy").unlink()
    with pytest.raises(DataError, match=r"y-11\.npy has no counterpart x-11\.npy"):
        as_source(folder)


def test_columns_first_is_read_whole_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", np.asfortranarray(X))
    np.save(tmp_path / "y.npy", Y)
    assert np.array_equal(as_source(tmp_path).fetch(torch.tensor([7, 1]))[0], X[[7, 1]])
    monkeypatch.setattr(npy_rows, "RESIDENT_BYTES", 0)
    with pytest.raises(DataError, match=r"Fortran order.*ascontiguousarray"):
        as_source(tmp_path)


def test_files_that_change_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npy_rows, "RESIDENT_BYTES", 0)
    path = tmp_path / "x.npy"
    np.save(path, X)
    rows = NpyRows([path])
    path.open("r+b").close()
    with path.open("r+b") as file:
        file.truncate(500)
    assert np.array_equal(rows[np.array([0])], X[:1])
    with pytest.raises(DataError, match="has become shorter"):
        rows[np.array([59])]
    path.unlink()
    with pytest.raises(DataError, match=r"x\.npy cannot be read"):
        pickle.loads(pickle.dumps(rows))[np.array([0])]


RESIDENT = """
import sys
from rightbatch.data import BatchStream, as_source
from rightbatch.data.formats import npy_rows

def anonymous_mb():
    [line] = [line for line in open("/proc/self/smaps_rollup") if line.startswith("Anonymous")]
    return int(line.split()[1]) / 1024

npy_rows.RESIDENT_BYTES = 2**20
stream = BatchStream(as_source(sys.argv[1]), seed=0)
before, total, most = anonymous_mb(), 0.0, 0.0
for _ in range(40):
    x, y = stream.fetch(stream.take(1000))
    total += float(x.sum())
    most = max(most, anonymous_mb() - before)
assert stream.epoch == 1 and total == 40000 * 512, (stream.epoch, total)
print(most)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted as Linux tells it")
def test_an_epoch_takes_no_memory_that_the_system_cannot_reclaim(tmp_path: Path) -> None:
    """78 MiB are read; a batch is 2 MiB, so 16 leave room for it, what it is copied to, and the allocator."""
    np.save(tmp_path / "x.npy", np.ones((40_000, 512), np.float32))
    np.save(tmp_path / "y.npy", np.zeros(40_000))
    ran = subprocess.run([sys.executable, "-c", RESIDENT, str(tmp_path)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert float(ran.stdout) < 16, ran.stdout


def test_an_empty_shard_has_no_rows(tmp_path: Path, resident: bool) -> None:
    for number, (start, stop) in enumerate([(0, 0), (0, 40), (40, 40), (40, 60)]):
        np.save(tmp_path / f"x-{number}.npy", X[start:stop])
        np.save(tmp_path / f"y-{number}.npy", Y[start:stop])
    source = as_source(tmp_path)
    for rows in ([], [39, 40, 0, 59]):
        x, y = source.fetch(torch.tensor(rows, dtype=torch.int64))
        assert np.array_equal(x, X[rows]) and np.array_equal(y, Y[rows])


def test_a_file_emptied_after_it_was_mapped_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npy_rows, "RESIDENT_BYTES", 0)
    path = tmp_path / "x.npy"
    np.save(path, np.ones((4000, 10)))
    rows = NpyRows([path])
    assert rows[np.array([3999])].sum() == 10
    with path.open("r+b") as file:
        file.truncate(0)
    with pytest.raises(DataError, match="has become shorter"):
        rows[np.array([0])]


def test_a_stream_over_shards_is_the_stream_over_the_array(tmp_path: Path, resident: bool) -> None:
    streams = [BatchStream(as_source(data), seed=3) for data in (shards(tmp_path / "set"), (X, Y))]
    for size in (7, 20, 40):
        disk, memory = (stream.fetch(stream.take(size)) for stream in streams)
        assert torch.equal(disk[0], memory[0]) and torch.equal(disk[1], memory[1])
