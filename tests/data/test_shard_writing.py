"""Streams of samples, refused as they are and written to shards."""

import tracemalloc
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from rightbatch.data import as_source, write_shards
from rightbatch.data.formats import shard_writing
from rightbatch.errors import DataError, InputError


class Stream(IterableDataset[Any]):
    """Samples (i, i + 1), i mod 4 without end, in an array that is filled again and again."""

    def __iter__(self) -> Iterator[Any]:
        x = torch.zeros(2)
        for number in count():
            x[0], x[1] = number, number + 1
            yield x, number % 4


def test_streams_are_refused_with_a_way_out() -> None:
    for stream in (Stream(), iter([]), map(str, [])):
        with pytest.raises(DataError, match=r"sequential access.*write_shards"):
            as_source(stream)


def test_a_stream_becomes_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_writing, "SHARD_BYTES", 10 * 16)
    source = write_shards(Stream(), tmp_path / "deep" / "set", most=95)
    assert len(source) == 95 and source.classes == 4 and "10 shards" in source.describe()
    rows = torch.tensor([94, 0, 33])
    for opened in (source, as_source(tmp_path / "deep" / "set")):
        x, y = opened.fetch(rows)
        assert x.tolist() == [[94, 95], [0, 1], [33, 34]] and y.tolist() == [2, 0, 1]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["set"]
    with pytest.raises(InputError, match="already exists"):
        write_shards(Stream(), tmp_path / "deep" / "set", most=3)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], "stream is empty"),
        ([(np.zeros(2), 0), np.zeros(2)], r"sample 1 is a ndarray: it must be a pair \(x, y\)"),
        (
            [(np.zeros(2), 0), (np.zeros(3), 0)],
            r"x of sample 1 is float64 of shape \(3,\), of sample 0 float64 of sh",
        ),
        ([(np.zeros(2), 0), (np.zeros(2), 0.5)], "y of sample 1 is float64"),
        ([(np.zeros(2), "a")], "y of sample 0 has dtype"),
        ([(np.full(2, np.nan), 0)], "x has 2 NaN"),
    ],
)
def test_streams_that_cannot_be_written(tmp_path: Path, samples: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        write_shards(iter(samples), tmp_path / "set")
    for most in (0, 1.5, True):
        with pytest.raises(InputError, match=r"most is .*: give a whole number of at least 1"):
            write_shards(iter(samples), tmp_path / "new", most=most)  # type: ignore[arg-type]
    assert not (tmp_path / "set.unfinished").exists()


def test_what_is_held_is_the_shard_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of 12 bytes, whose arrays have headers ten times as large; one half again is what else Python takes."""
    monkeypatch.setattr(shard_writing, "SHARD_BYTES", 2**18)
    monkeypatch.setattr(shard_writing, "shard_source", lambda _: tracemalloc.get_traced_memory()[1])
    row = np.ones(1, np.float32)
    tracemalloc.start()
    peak_bytes = write_shards(((row, 1) for _ in range(30_000)), tmp_path / "set")
    tracemalloc.stop()
    assert peak_bytes < 2**18 + 2**17
    assert np.load(tmp_path / "set" / "x-00001.npy").shape == (30_000 - 2**18 // 12, 1)


def test_an_interrupted_writing_leaves_nothing(tmp_path: Path) -> None:
    def breaking() -> Iterator[Any]:
        yield np.zeros(2), 0
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(breaking(), tmp_path / "set")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        write_shards(iter([(np.zeros(2), 0)]), tmp_path / "file" / "set")


def test_batches_and_mappings_become_samples(tmp_path: Path) -> None:
    data = TensorDataset(torch.arange(20.0).reshape(10, 2), torch.arange(10))
    loaded = write_shards(DataLoader(data, batch_size=4), tmp_path / "loaded", most=9)
    batches = ({"x": np.full((2, 3), i), "y": np.array([i, i])} for i in range(3))
    named = write_shards(batches, tmp_path / "named", batched=True, columns=("x", "y"))
    assert len(loaded) == 9 and loaded.fetch(torch.tensor([8]))[0].tolist() == [[16, 17]]
    assert named.x_shape == (3,) and named.fetch(torch.arange(6))[1].tolist() == [0, 0, 1, 1, 2, 2]
    with pytest.raises(DataError, match="an item of list is not a batch"):
        write_shards([(torch.zeros(2, 1), torch.zeros(3))], tmp_path / "uneven", batched=True)
    for item in ((torch.zeros(2, 1), 3), (torch.zeros(2), torch.zeros(2), torch.zeros(2)), None):
        with pytest.raises(DataError, match="an item of list is not a batch"):
            write_shards([item], tmp_path / "odd", batched=True)
    with pytest.raises(DataError, match=r"sample 0 is a dict: .* name x and y"):
        write_shards([{"x": 1.0, "y": 0}], tmp_path / "unnamed")
    with pytest.raises(DataError, match="int is not a stream"):
        write_shards(5, tmp_path / "number")  # type: ignore[arg-type]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loaded", "named"]
