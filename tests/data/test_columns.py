"""Parquet and Arrow files and folders, read row group by row group."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rightbatch.data import BatchStream, Source, blocks, hold_out, load, opening
from rightbatch.data.formats.column_source import ColumnSource
from rightbatch.errors import DataError, InputError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

N = 100
RANDOM = np.random.default_rng(0)
A, B, Y = RANDOM.normal(size=N), RANDOM.integers(0, 9, N), np.arange(N) % 3
TABLE = pa.table({"a": A, "y": Y, "b": B, "flag": Y == 1})
X = np.stack([A, B, Y == 1], 1).astype(np.float32)
Writer = Callable[[Path, Any, int], Path]


def as_source(data: Any, **options: Any) -> Any:
    """The numbers as they are in the file."""
    return opening.as_source(data, **{"standardize": False, **options})


def parquet(path: Path, table: Any, rows: int) -> Path:
    path = path.with_suffix(".parquet")
    pq.write_table(table, path, row_group_size=rows)
    return path


def arrow_file(path: Path, table: Any, rows: int) -> Path:
    path = path.with_suffix(".arrow")
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)
    return path


def arrow_stream(path: Path, table: Any, rows: int) -> Path:
    path = path.with_suffix(".arrow")
    options = pa.ipc.IpcWriteOptions(compression="lz4" if rows == 7 else None)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=rows)
    return path


WRITERS: list[Writer] = [parquet, arrow_file, arrow_stream]


@pytest.fixture(autouse=True)
def nothing_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Parquet file counts as larger than memory."""
    monkeypatch.setattr(opening, "WHOLE_BYTES", 0)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The blocks decoded, in sequence."""
    seen: list[int] = []
    read = ColumnSource._read

    def counted(self: ColumnSource, block: int) -> Any:
        seen.append(block)
        return read(self, block)

    monkeypatch.setattr(ColumnSource, "_read", counted)
    return seen


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("rows", [7, 30])
def test_tables_are_what_they_are_in_memory(tmp_path: Path, write: Writer, rows: int) -> None:
    source = as_source(write(tmp_path / "set", TABLE, rows), target="y")
    assert isinstance(source, ColumnSource) and source.x_shape == (3,) and source.classes == 3
    assert source.block_ends.tolist() == [*range(rows, N, rows), N]
    for chosen in (range(N), [99, 0, 50, 51, 50]):
        x, y = source.fetch(torch.tensor(list(chosen)))
        assert np.array_equal(x, X[list(chosen)]) and np.array_equal(y, Y[list(chosen)])
        assert (x.dtype, y.dtype) == (source.x_dtype, source.y_dtype) == (torch.float32, torch.int64)


def test_small_parquet_files_are_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = parquet(tmp_path / "set", TABLE, 10)
    on_demand = as_source(path, target="y")
    monkeypatch.undo()
    whole = as_source(path, target="y")
    assert isinstance(on_demand, ColumnSource) and not isinstance(whole, ColumnSource)
    rows = torch.arange(N)
    assert all(torch.equal(a, b) for a, b in zip(on_demand.fetch(rows), whole.fetch(rows), strict=True))
    assert (on_demand.y_range, on_demand.y_dtype) == (whole.y_range, whole.y_dtype)


@pytest.mark.parametrize(
    "target",
    [
        ["no", "yes"],
        [-1, 1],
        [-1.0, 1.0],
        [0.0, 1.0],
        [True, False],
        [-2, 5, 7],
        [0, 999],
        [3, 1000],
        [1, 1],
        [0.25, -1.0, 1.0],
    ],
)
@pytest.mark.parametrize("write", WRITERS)
def test_targets_mean_what_they_mean_in_a_small_table(tmp_path: Path, write: Writer, target: list[Any]) -> None:
    column = [target[i * len(target) // N] for i in range(N)]  # sorted: no block alone tells what the column is
    table = pa.table({"a": A, "y": column})
    found = as_source(write(tmp_path / "set", table, 8), target="y")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "WHOLE_BYTES", 2**28)
        expected = as_source(parquet(tmp_path / "whole", table, N), target="y")
    rows = torch.arange(N)
    assert torch.equal(found.fetch(rows)[1], expected.fetch(rows)[1])
    assert (found.y_dtype, found.y_range) == (expected.y_dtype, expected.y_range)
    assert found.preprocessing.classes == expected.preprocessing.classes
    assert found.preprocessing.table == expected.preprocessing.table
    assert found.notes[1:] == expected.notes


@pytest.mark.parametrize("write", WRITERS)
def test_lists_keep_their_shape(tmp_path: Path, write: Writer) -> None:
    pixels = RANDOM.integers(0, 256, (N, 2, 3), np.uint8)
    inner = pa.FixedSizeListArray.from_arrays(pa.array(pixels.reshape(-1)), 3)
    images = pa.FixedSizeListArray.from_arrays(inner, 2)
    source = as_source(write(tmp_path / "images", pa.table({"image": images, "label": Y}), 9), target="label")
    x, _ = source.fetch(torch.tensor([98, 1]))
    assert torch.equal(x, as_source((pixels, Y)).fetch(torch.tensor([98, 1]))[0]) and source.x_dtype == torch.float32

    tokens = RANDOM.integers(0, 500, (N, 4))
    source = as_source(write(tmp_path / "tokens", pa.table({"ids": tokens.tolist(), "label": Y}), 9), target="label")
    assert source.x_dtype == torch.int64 and np.array_equal(source.fetch(torch.arange(N))[0], tokens)

    both = pa.table({"ids": tokens.tolist(), "a": A, "label": (X * 2).tolist()})
    x, y = as_source(write(tmp_path / "both", both, 9), target="label").fetch(torch.arange(N))
    assert np.array_equal(x, np.c_[tokens, A].astype(np.float32)) and np.array_equal(y, X * 2)


@pytest.mark.parametrize("write", WRITERS)
def test_folders_join_their_files(tmp_path: Path, write: Writer) -> None:
    for number, (start, stop) in enumerate([(0, 33), (33, 33), (33, 70), (70, 100)]):
        write(tmp_path / f"part-{number + 8}", TABLE.slice(start, stop - start), 10)
    source = as_source(tmp_path, target="y")
    assert np.array_equal(source.fetch(torch.arange(N))[0], X)
    assert source.block_ends.tolist() == [10, 20, 30, 33, 43, 53, 63, 70, 80, 90, 100]
    assert "11 r" in source.describe() and "of 4 files" in source.describe()


def test_files_called_train_and_test_are_that(tmp_path: Path) -> None:
    for name, start in (("train-0", 0), ("train-1", 40), ("test", 80)):
        parquet(tmp_path / name, TABLE.slice(start, 40 if start < 80 else 20), 10)
    splits = load(tmp_path, target="y")
    assert len(splits.train) == 80 and splits.test is not None and len(splits.test) == 20
    parquet(tmp_path / "more", TABLE, 10)
    with pytest.raises(DataError, match=r"train-0\.parquet names its part, .*more\.parquet does not"):
        load(tmp_path, target="y")


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("batch", [1, 7, 64])
def test_an_epoch_reads_each_block_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: list[int], write: Writer, batch: int
) -> None:
    monkeypatch.setattr(blocks, "WINDOW_BYTES", 4 * 10 * 20)  # four blocks of ten samples: two mixed, two to come
    source = as_source(write(tmp_path / "set", TABLE, 10), target="y")
    assert (source.window, source.cached_blocks) == (2, 4)
    monkeypatch.setattr(ColumnSource, "prefetch", Source.prefetch)  # else blocks of the next epoch are read as well
    reads.clear()
    stream = BatchStream(source, seed=1)
    seen = []
    while stream.epoch == 0:
        x, y = stream.fetch(stream.take(batch))
        seen.append(torch.cat([x, y[:, None]], 1))
    found = torch.cat(seen)
    expected = torch.from_numpy(np.c_[X, Y].astype(np.float32))
    assert torch.equal(found[found[:, 0].argsort()], expected[expected[:, 0].argsort()])
    assert not torch.equal(found, expected)
    assert sorted(reads) == list(range(10)) or (batch == 64 and len(reads) < 20)
    assert [len(part) for part in source._memory] == [40, 40]


def test_a_source_travels_without_what_it_has_read(tmp_path: Path) -> None:
    source = as_source(parquet(tmp_path / "set", TABLE, 10), target="y")
    x, _ = source.fetch(torch.arange(N))
    packed = pickle.dumps(source)
    assert len(packed) < 8000 and torch.equal(pickle.loads(packed).fetch(torch.arange(N))[0], x)


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.25, 0.4, 0.5, 0.77, 0.99])
def test_held_out_parts_are_read_in_blocks_too(tmp_path: Path, fraction: float) -> None:
    source = as_source(parquet(tmp_path / "set", TABLE, 10), target="y")
    train, valid = hold_out(source, fraction, seed=4)
    assert len(valid) == round(N * fraction)
    whole = [part.whole(np.arange(len(part))) for part in (train, valid)]
    assert sorted(np.concatenate(whole)) == list(range(N))
    for part, rows in zip((train, valid), whole, strict=True):
        assert (np.diff(rows) > 0).all() and np.array_equal(part.fetch(torch.arange(len(part)))[0], X[rows])
        blocks = np.searchsorted(part.block_ends, np.arange(len(part)), "right")
        assert [np.unique(rows[blocks == b] // 10).size for b in range(len(part.block_ends))] == [1] * len(
            part.block_ends
        )
    drawn = {tuple(hold_out(source, fraction, seed)[1].whole(np.arange(len(valid)))) for seed in range(20)}
    assert len(drawn) > 10


@pytest.mark.parametrize("fraction", [0.1, 0.9])
def test_each_sample_is_as_likely_to_be_held_out(tmp_path: Path, fraction: float) -> None:
    """1,600 draws of 10 or 90 in 100 samples; counts of deviation 12 stay within 5 deviations of their mean."""
    source = as_source(parquet(tmp_path / "set", TABLE, 10), target="y")
    counts = np.zeros(N)
    for seed in range(1600):
        counts[hold_out(source, fraction, seed)[1].whole(np.arange(round(N * fraction)))] += 1
    assert abs(counts - 1600 * fraction).max() < 60


# --- refused ---


def test_a_named_column_exists(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"names a column that does not exist; .*did you mean 'flag'"):
        as_source(parquet(tmp_path / "set", TABLE, 10), target="y", text={"flg": "drop"})


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"name": ["2026-01-02"] * N, "y": Y}, r"the column name has dates .*text=\{'name': 'drop'\}"),
        (
            {"name": [f"n{i}" for i in range(N)], "y": Y},
            r"column name has another text in every row.*text=\{'name': 'codes'\}",
        ),
        ({"a": A, "y": [f"t{i}" for i in range(N)]}, "the target y has 100 in 100 rows distinct texts"),
        ({"a": A, "y": [f"{i},50" for i in range(N)]}, r"the target y has numbers written as text, .*decimal=','"),
        ({"when": pa.array([0] * N, pa.timestamp("s")), "y": Y}, r"the column when has timestamp.*text=\{'when'"),
        ({"y": Y}, "no feature columns are left"),
        ({"a": A}, "name the column|no column 'y'; columns: a"),
        ({"a": A, "y": pa.array([None] * N, pa.float32())}, "missing"),
        ({"a": A, "y": [b"x"] * N}, "target y has type binary"),
        ({"a": A, "y": [f"t{i // 2}" for i in range(N)]}, None),
    ],
)
def test_tables_refused(tmp_path: Path, write: Writer, columns: dict[str, Any], message: str | None) -> None:
    path = write(tmp_path / "set", pa.table(columns), 9)
    if message is None:
        assert as_source(path, target="y").classes == N // 2
        return
    with pytest.raises(DataError, match=message):
        as_source(path, target="y")
    with pytest.raises(DataError, match="target="):
        as_source(path)


@pytest.mark.parametrize("write", WRITERS)
def test_text_can_be_dropped(tmp_path: Path, write: Writer) -> None:
    path = write(tmp_path / "set", TABLE.append_column("name", [["x"] * N]), 9)
    source = as_source(path, target="y", text="drop")
    assert np.array_equal(source.fetch(torch.arange(N))[0], X) and "dropped the columns name" in source.describe()
    with pytest.raises(DataError, match="the columns name are not numeric"):
        as_source(path, target="y", text="error")
    with pytest.raises(DataError, match="missing='mean' is not supported"):
        as_source(path, target="y", text="drop", missing="mean")
    with pytest.raises(InputError, match="text='ignore' is not supported"):
        as_source(path, target="y", text="ignore")  # type: ignore[arg-type]


@pytest.mark.parametrize("write", WRITERS)
def test_missing_values_are_named_with_their_block(tmp_path: Path, write: Writer) -> None:
    holed = pa.table({"a": pa.array([None if i == 57 else v for i, v in enumerate(A)]), "y": Y})
    path = write(tmp_path / "set", holed, 10)
    kind = "row group" if write is parquet else "record batch"
    with pytest.raises(DataError, match=rf"set\.\w+, {kind} 5: .*1 values are missing"):
        as_source(path, target="y").fetch(torch.tensor([50]))
    nan = pa.table({"a": np.where(np.arange(N) == 57, np.nan, A), "y": Y})
    source = as_source(write(tmp_path / "nan", nan, 10), target="y")
    with pytest.raises(DataError, match=rf"{kind} 5: 1 NaN or infinite values in the features, the first in row 7"):
        source.fetch(torch.arange(N))
    assert len(source.fetch(torch.arange(50))[0]) == 50
    huge = pa.table({"a": np.where(np.arange(N) == 57, 1e300, A), "y": Y})
    with pytest.raises(DataError, match=rf"{kind} 5: 1 NaN or infinite values in the features"):
        as_source(write(tmp_path / "huge", huge, 10), target="y").fetch(torch.arange(N))
    nan = pa.table({"a": A, "y": np.where(np.arange(N) == 57, np.inf, A)})
    with pytest.raises(DataError, match=rf"{kind} 5: 1 NaN or infinite values in the target y"):
        as_source(write(tmp_path / "nan", nan, 10), target="y").fetch(torch.arange(N))


@pytest.mark.parametrize("write", WRITERS)
def test_lists_of_several_lengths_are_refused(tmp_path: Path, write: Writer) -> None:
    table = pa.table({"ids": [[1, 2]] * 95 + [[1]] * 5, "y": Y})
    source = as_source(write(tmp_path / "set", table, 10), target="y")
    with pytest.raises(DataError, match=r"9: column ids: lists have 1 to 2 numbers"):
        source.fetch(torch.arange(N))


def test_folders_of_different_tables_are_refused(tmp_path: Path) -> None:
    parquet(tmp_path / "a", TABLE, 10)
    parquet(tmp_path / "b", TABLE.drop_columns(["b"]), 10)
    with pytest.raises(DataError, match=r"b\.parquet has the columns a \(double\), y .*a\.parquet has"):
        as_source(tmp_path, target="y")
    parquet(tmp_path / "b", TABLE, 10)
    for path in tmp_path.iterdir():
        pq.write_table(TABLE.slice(0, 0), path)
    with pytest.raises(DataError, match="empty"):
        as_source(tmp_path, target="y")


@pytest.mark.parametrize("write", WRITERS)
def test_damaged_files(tmp_path: Path, write: Writer) -> None:
    path = write(tmp_path / "set", TABLE, 10)
    good = path.read_bytes()
    contents = [good[:cut] for cut in range(0, len(good) - 9, 97)]
    for at in range(0, len(good), 41):
        contents.append(good[:at] + bytes([good[at] ^ 0xFF]) + good[at + 1 :])
    refused = 0
    for content in contents:
        path.write_bytes(content)
        try:
            x, _ = as_source(path, target="y").fetch(torch.arange(5))
            assert x.shape == (5, 3)
        except DataError as error:
            refused += 1
            assert str(path) in str(error)
    assert refused > len(contents) / 4


def test_blocks_larger_than_any_memory_are_refused(tmp_path: Path) -> None:
    source = as_source(parquet(tmp_path / "set", TABLE, 10), target="y")
    source._largest = 2**50  # as a damaged file may claim
    with pytest.raises(DataError, match=r"10 decoded blocks of up to 1,125,899,906,842,624 samples"):
        source.fetch(torch.arange(5))


def test_files_that_change_are_noticed(tmp_path: Path) -> None:
    path = arrow_file(tmp_path / "set", TABLE, 10)
    source = as_source(path, target="y")
    arrow_file(tmp_path / "set", TABLE, 9)
    with pytest.raises(DataError, match="has changed since it was opened"):
        source.fetch(torch.arange(N))
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        source.fetch(torch.arange(N))
