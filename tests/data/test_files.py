"""Files and folders: `.npz`, `.npy` pairs, IDX, and what happens when they are not what they should be."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse

from rightbatch.data import BatchStream, as_source, hold_out, load
from rightbatch.data.formats import memory_map, npz
from rightbatch.data.formats.memory_map import MemoryMapSource
from rightbatch.errors import DataError

X, Y = np.arange(12.0).reshape(6, 2), np.array([0, 1, 2, 0, 1, 2])


def everything(source: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return source.fetch(torch.arange(len(source)))


# --- npz ---


@pytest.mark.parametrize("keys", [("x", "y"), ("X", "y"), ("data", "target"), ("images", "Labels")])
def test_npz_by_the_usual_names(tmp_path: Path, keys: tuple[str, str]) -> None:
    np.savez(tmp_path / "set.npz", **{keys[0]: X, keys[1]: Y, "feature_names": np.array(["a", "b"])})
    source = as_source(tmp_path / "set.npz")
    x, y = everything(source)
    assert x.tolist() == X.tolist() and y.tolist() == Y.tolist() and source.classes == 3


def test_npz_targets_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", X=X, y=Y, label=Y + 1, year=Y + 1922)
    with pytest.raises(DataError, match=r"year, several possible targets \(y, label\): name the targets \(target="):
        as_source(tmp_path / "set.npz")
    assert everything(as_source(tmp_path / "set.npz", target="label"))[1].tolist() == (Y + 1).tolist()
    years = as_source(str(tmp_path / "set.npz"), target="year")
    assert years.y_dtype == torch.float32 and "from 1922 to 1924 treated as a quantity" in years.describe()


@pytest.mark.parametrize(
    ("labels", "expected", "note"),
    [
        ([-1, 1, 1], [0, 1, 1], "converted to classes 0 and 1"),
        ([-1.0, 1.0, -1.0], [0, 1, 0], "converted to classes 0 and 1"),
        (["no", "yes", "no"], [0, 1, 0], "text targets numbered: no, yes"),
        ([True, False, True], [1, 0, 1], "2 classes"),
        ([-2, 5, 7], [-2.0, 5.0, 7.0], "treated as a quantity"),
        ([0, 999, 3], [0, 999, 3], "1000 classes"),
        ([1, 1, 1], [1, 1, 1], "2 classes"),
    ],
)
def test_what_a_target_column_means(tmp_path: Path, labels: list[Any], expected: list[Any], note: str) -> None:
    np.savez(tmp_path / "set.npz", x=X[:3], y=np.array(labels))
    source = as_source(tmp_path / "set.npz")
    assert everything(source)[1].tolist() == expected and note in source.describe()


def sparse_set(path: Path, matrix: Any, **extra: Any) -> Path:
    sparse.save_npz(path, matrix)
    np.savez(path, **dict(np.load(path)), **extra)
    return path


def test_npz_of_sparse_rows(tmp_path: Path) -> None:
    matrix = sparse.random(20, 7, 0.3, format="csr", random_state=0)
    source = as_source(sparse_set(tmp_path / "set.npz", matrix, y=np.resize([-1, 1], 20)))
    x, y = everything(source)
    assert np.array_equal(x.numpy(), matrix.toarray().astype(np.float32)) and y.tolist() == [0, 1] * 10
    assert "sparse rows converted to dense; targets -1 and 1 converted to classes 0 and 1" in source.describe()


def test_sparse_rows_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = sparse.random(20, 7, 0.3, format="csr", random_state=0)
    with pytest.raises(DataError, match=r"'csc' format.*tocsr"):
        as_source(sparse_set(tmp_path / "csc.npz", matrix.tocsc(), y=np.zeros(20, int)))
    arrays = dict(np.load(sparse_set(tmp_path / "set.npz", matrix, y=np.zeros(20, int))))
    with pytest.raises(DataError, match="inconsistent"):
        np.savez(tmp_path / "bad.npz", **{**arrays, "indices": arrays["indices"] + 7})
        as_source(tmp_path / "bad.npz")
    with pytest.raises(DataError, match="x has 20 samples and y has 19"):
        np.savez(tmp_path / "bad.npz", **{**arrays, "y": arrays["y"][1:]})
        as_source(tmp_path / "bad.npz")
    monkeypatch.setattr(npz, "DENSE_LIMIT_BYTES", 500)
    with pytest.raises(DataError, match="as a dense matrix of 20 x 7"):
        as_source(tmp_path / "set.npz")


@pytest.mark.parametrize(
    ("arrays", "target", "message"),
    [
        ({"x": X}, None, "none named y, target or label"),
        ({"y": Y, "other": X}, None, "none named x, data or features.*pass a pair"),
        ({"x": X, "data": X, "y": Y}, None, r"several possible inputs \(x, data\)"),
        ({"x": X, "y": Y}, "z", "no array 'z'; its arrays are x, y"),
        ({"x": X, "y": Y[:4]}, None, "set.npz: x has 6 samples and y has 4"),
        ({"x": X * np.nan, "y": Y}, None, "set.npz: x has 12 NaN"),
        ({"x": X.astype(object), "y": Y}, None, "cannot be read as an .npz archive"),
    ],
)
def test_npz_refused(tmp_path: Path, arrays: dict[str, Any], target: str | None, message: str) -> None:
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(DataError, match=message):
        as_source(tmp_path / "set.npz", target=target)


def damaged(path: Path) -> list[bytes]:
    """What a file may have become: cut short, overwritten in the middle, something else, nothing."""
    good = path.read_bytes()
    middle = len(good) // 2
    return [good[:middle], good[: middle - 20] + b"\xa5" * 40 + good[middle + 20 :], b"not what it says", b""]


@pytest.mark.parametrize("saver", [np.savez, np.savez_compressed])
def test_damaged_npz(tmp_path: Path, saver: Any) -> None:
    path = tmp_path / "set.npz"
    saver(path, x=np.random.default_rng(0).normal(size=(200, 3)), y=np.zeros(200, int))
    for content in damaged(path):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"set\.npz"):
            as_source(path)
    with path.open("wb") as file:
        np.save(file, X)
    with pytest.raises(DataError, match=r"set\.npz cannot be read"):
        as_source(path)


# --- memory maps ---


def mapped(folder: Path, x: Any, y: Any) -> Path:
    folder.mkdir(exist_ok=True)
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    return folder


def test_memory_maps_read_rows_as_arrays_in_memory_would(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for x in (
        random.normal(size=(50, 3)),
        random.integers(0, 255, (50, 2, 2), np.uint8),
        random.integers(0, 9, (50, 4)),
    ):
        for y in (random.integers(0, 4, 50, np.int32), random.normal(size=(50, 1)).astype(">f8")):
            folder = mapped(tmp_path / "set", x, y)
            memory = as_source((x, y))
            opened = np.load(folder / "x.npy", mmap_mode="r"), y
            for data in (folder, (folder / "x.npy", str(folder / "y.npy")), opened):
                disk = as_source(data)
                assert isinstance(disk, MemoryMapSource) and "read from disk" in disk.describe()
                rows = torch.tensor([40, 3, 3])
                for expected, got in zip(memory.fetch(rows), disk.fetch(rows), strict=True):
                    assert torch.equal(expected, got) and expected.dtype == got.dtype
                for name in ("x_shape", "y_shape", "x_dtype", "y_dtype", "y_range", "classes"):
                    assert getattr(memory, name) == getattr(disk, name)


def test_held_out_parts_of_a_memory_map_are_not_read(tmp_path: Path) -> None:
    train, valid = hold_out(as_source(mapped(tmp_path / "set", np.arange(500.0), np.arange(500))), 0.1)
    stream = BatchStream(train)
    seen = [stream.fetch(stream.take(200))[1] for _ in range(3)]
    assert torch.equal(torch.cat([*seen, everything(valid)[1]]).sort().values, torch.arange(500))


def test_memory_maps_are_checked_by_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.ones((5000, 2))
    x[2500:] = np.nan
    with pytest.raises(DataError, match=r"x \(a sample of 1,024 of 5,000 rows\) has 1024 NaN"):
        as_source(mapped(tmp_path / "set", x, np.zeros(5000, int)))
    folder = mapped(tmp_path / "set", np.ones((5000, 2)), np.zeros(5000, int))
    assert "1,024 rows checked for NaN" in as_source(folder).describe()
    assert as_source(folder).y_range == (0, 0)
    monkeypatch.setattr(memory_map, "CHECKED_BYTES", 64)
    assert "4 rows checked for NaN" in as_source(folder).describe()
    assert as_source(folder).y_range is None


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X, Y[:5], "x has 6 samples and y has 5"),
        (X[:0], Y[:0], "empty"),
        (X * 1j, Y, "x is complex"),
        (X, Y * np.nan, "y has 6 NaN"),
        (np.float64(3), Y, "scalar"),
    ],
)
def test_memory_maps_refused(tmp_path: Path, x: Any, y: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        as_source(mapped(tmp_path / "set", x, y))


def test_damaged_npy(tmp_path: Path) -> None:
    folder = mapped(tmp_path / "set", X, Y)
    for content in (b"", b"not what it says", (folder / "x.npy").read_bytes()[:150]):
        (folder / "x.npy").write_bytes(content)
        with pytest.raises(DataError, match=r"x\.npy cannot be read"):
            as_source(folder)
    with (folder / "x.npy").open("wb") as file:
        np.savez(file, X)
    with pytest.raises(DataError, match=r"x\.npy is an .npz archive"):
        as_source(folder)
    np.save(folder / "x.npy", X.astype(object), allow_pickle=True)
    with pytest.raises(DataError, match=r"x\.npy cannot be read"):
        as_source(folder)
    with pytest.raises(DataError, match=r"z\.npy does not exist"):
        as_source((folder / "z.npy", folder / "y.npy"))


# --- IDX ---


def idx(values: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    return header + values.astype(np.uint8).tobytes()


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Eight images of 3 x 4 with their labels to train on, three to test on, one of the files not gzipped."""
    random = np.random.default_rng(0)
    for part, n in (("train", 8), ("t10k", 3)):
        images = idx(random.integers(0, 256, (n, 3, 4)))
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.arange(n) % 5))
    return tmp_path


def test_idx_folder(digits: Path) -> None:
    splits = load(digits)
    assert splits.test is not None and splits.name == digits.name
    x, y = everything(splits.train)
    assert x.shape == (8, 1, 3, 4) and y.tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert abs(x.mean()) < 1e-5 and abs(x.std(correction=0) - 1) < 1e-5
    raw = np.random.default_rng(0).integers(0, 256, (8, 3, 4)) / 255
    test = np.random.default_rng(0)
    test.integers(0, 256, (8, 3, 4))
    expected = (test.integers(0, 256, (3, 3, 4)) / 255 - raw.mean()) / raw.std()
    assert np.allclose(everything(splits.test)[0].numpy()[:, 0], expected, atol=1e-5)
    assert torch.equal(everything(as_source(digits))[0], x)
    assert "pixels standardized" in splits.train.describe()


def test_idx_without_a_test_part(digits: Path) -> None:
    for path in digits.glob("t10k-*"):
        path.unlink()
    assert load(digits).test is None


def test_damaged_idx(digits: Path) -> None:
    path = digits / "train-images-idx3-ubyte.gz"
    good = gzip.decompress(path.read_bytes())
    for content, message in [
        (path.read_bytes()[:40], "cannot be read"),
        (gzip.compress(good[:-5]), "truncated or damaged: expected 96 bytes of data, found 91"),
        (gzip.compress(good + b"12"), "found more"),
        (b"", "is not an IDX file"),
        (b"not what it says", "is not an IDX file"),
        (idx(np.zeros(8)), "1 dimensions"),
        (idx(np.zeros((1, 8, 3, 4))), "4 dimensions: expected bytes .* and 3"),
        (idx(np.zeros((7, 3, 4))), "has 7 images and .* has 8 labels"),
        (idx(np.zeros((8, 0, 4))), "is empty"),
        (idx(np.zeros((8, 3, 4))), "the same value"),
    ]:
        path.write_bytes(content)
        with pytest.raises(DataError, match=message) as caught:
            as_source(digits)
        assert str(digits) in str(caught.value)
    path.unlink()
    with pytest.raises(DataError, match="unknown format"):
        as_source(digits)
    path.write_bytes(idx(np.zeros((8, 3, 4))))
    (digits / "train-images-copy").write_bytes(b"")
    with pytest.raises(DataError, match="exactly one file train-images"):
        as_source(digits)
    (digits / "train-images-copy").unlink()
    (digits / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="found: none"):
        as_source(digits)


# --- by path ---


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.npy", "a single array without targets"),
        ("train-labels-idx1-ubyte.gz", "one of four IDX files: pass their folder"),
        ("a.xlsx", "an unknown format: pass tensors"),
    ],
)
def test_paths_of_other_kinds(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).write_bytes(b"something")
    with pytest.raises(DataError, match=message):
        as_source(tmp_path / name)


def test_paths_that_do_not_exist(tmp_path: Path) -> None:
    (tmp_path / "housing.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"hosing.csv does not exist; did you mean .*housing\.csv\?"):
        as_source(tmp_path / "hosing.csv")
    with pytest.raises(DataError, match=r"does not exist$"):
        as_source(tmp_path / "nowhere" / "hosing.csv")
    with pytest.raises(
        DataError, match=r"no data set, file or folder .*; built-in data sets: digits, .*; did you mean .*housing"
    ):
        load(tmp_path / "hosing.csv")


# --- the real ones ---


@pytest.mark.parametrize(
    ("name", "n", "width", "classes"), [("a9a_train", 32561, 123, 2), ("cod_rna_scaled", 59535, 8, 2)]
)
def test_real_convex_sets(data_dir: Path, name: str, n: int, width: int, classes: int) -> None:
    splits = load(data_dir / "libsvm" / f"{name}.npz")
    source = splits.train
    assert (len(source), source.x_shape, source.classes, splits.name) == (n, (width,), classes, name)
    if name == "a9a_train":
        x, y = everything(source)
        raw = np.load(data_dir / "libsvm" / "a9a_train.npz")
        matrix = sparse.csr_matrix((raw["data"], raw["indices"], raw["indptr"]), raw["shape"])
        assert np.array_equal(x.numpy(), matrix.toarray()) and int(y.sum()) == 7841


def test_real_images(data_dir: Path) -> None:
    splits = load(data_dir / "fashion_mnist")
    assert splits.test is not None
    assert (len(splits.train), len(splits.test)) == (60000, 10000)
    assert splits.train.x_shape == splits.test.x_shape == (1, 28, 28) and splits.train.classes == 10
    assert "mean 0.2860, standard deviation 0.3530" in splits.train.describe()
