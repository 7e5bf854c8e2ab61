"""Folders as the package `datasets` saves them, written here by pyarrow in the same layout."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rightbatch.data import as_source, load
from rightbatch.errors import DataError

pa = pytest.importorskip("pyarrow")

N = 50
RANDOM = np.random.default_rng(0)
A, LABELS = RANDOM.normal(size=N).astype(np.float32), np.arange(N) % 3
VALUE = {"dtype": "float32", "_type": "Value"}
CLASSES = {"names": ["cat", "dog", "fish", "none"], "_type": "ClassLabel"}


def saved(folder: Path, table: Any, features: dict[str, Any], shards: int = 2) -> Path:
    folder.mkdir(parents=True)
    names = [f"data-{number:05}-of-{shards:05}.arrow" for number in range(shards)]
    each = -(-len(table) // shards)
    for number, name in enumerate(names):
        part = table.slice(number * each, each)
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(part, max_chunksize=8)
    state = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": "0123456789abcdef",
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": "train",
    }
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"citation": "", "features": features}))
    return folder


def labelled(folder: Path, **changed: Any) -> Path:
    return saved(folder, pa.table({"a": A, "label": LABELS, **changed}), {"a": VALUE, "label": CLASSES})


def test_the_column_of_class_labels_is_the_target(tmp_path: Path) -> None:
    source = as_source(labelled(tmp_path / "set"), standardize=False)
    x, y = source.fetch(torch.arange(N))
    assert np.array_equal(x, A[:, None]) and np.array_equal(y, LABELS)
    assert source.classes == 4 and "8 record batches of 2 files" in source.describe()
    assert np.array_equal(as_source(tmp_path / "set", target="a").fetch(torch.tensor([3]))[1], A[[3]])


def test_splits(tmp_path: Path) -> None:
    for name, count in (("train", 40), ("validation", 6), ("test", 4)):
        saved(tmp_path / "set" / name, pa.table({"a": A[:count], "label": LABELS[:count]}), {"label": CLASSES})
    names = tmp_path / "set" / "dataset_dict.json"
    names.write_text(json.dumps({"splits": ["train", "validation", "test"]}))
    splits = load(tmp_path / "set")
    assert (len(splits.train), splits.test and len(splits.test)) == (40, 4)
    names.write_text(json.dumps({"splits": ["train", "validation"]}))
    assert len(load(tmp_path / "set").test or ()) == 6
    names.write_text(json.dumps({"splits": ["test"]}))
    assert len(as_source(tmp_path / "set")) == 4
    names.write_text(json.dumps({"splits": ["test", "validation"]}))
    with pytest.raises(DataError, match="has the splits test, validation but"):
        load(tmp_path / "set")
    names.write_text(json.dumps({"splits": {}}))
    with pytest.raises(DataError, match="does not list splits"):
        load(tmp_path / "set")


def test_images_are_decoded(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = RANDOM.integers(0, 256, (N, 4, 5, 3), np.uint8)

    def png(array: np.ndarray) -> dict[str, Any]:
        file = io.BytesIO()
        image.fromarray(array).save(file, "PNG")
        return {"bytes": file.getvalue(), "path": "1.png"}

    features = {"image": {"_type": "Image"}, "label": CLASSES}
    table = pa.table({"image": [png(each) for each in pixels], "label": LABELS})
    source = as_source(saved(tmp_path / "set", table, features))
    x, y = source.fetch(torch.tensor([40, 3]))
    assert torch.equal(x, torch.from_numpy(pixels[[40, 3]].transpose(0, 3, 1, 2)) * (1 / 255)) and y.tolist() == [1, 0]

    column = [png(each) for each in pixels]
    column[20] = {"bytes": column[20]["bytes"][:60], "path": None}
    source = as_source(saved(tmp_path / "cut", pa.table({"image": column, "label": LABELS}), features))
    with pytest.raises(DataError, match=r"data-00000.*arrow, record batch 2: column image: row 4: the image cannot be"):
        source.fetch(torch.arange(N))
    column[20] = png(pixels[0, :3])
    source = as_source(saved(tmp_path / "small", pa.table({"image": column, "label": LABELS}), features))
    with pytest.raises(DataError, match=r"record batch 2: .*row 4 has an image of shape \(3, 3, 5\), row 0 of"):
        source.fetch(torch.arange(N))
    column[20] = {"bytes": None, "path": "elsewhere.png"}
    source = as_source(saved(tmp_path / "path", pa.table({"image": column, "label": LABELS}), features))
    with pytest.raises(DataError, match="row 4 does not contain the bytes"):
        source.fetch(torch.arange(N))


def test_unknown_labels_are_refused(tmp_path: Path) -> None:
    """Sets to be predicted carry -1 for every label."""
    source = labelled(tmp_path / "set", label=np.where(np.arange(N) == 30, -1, LABELS))
    with pytest.raises(DataError, match="the target label ranges from -1 to 2; expected 0 to 3"):
        as_source(source).fetch(torch.arange(N))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("state.json", "{", r"state\.json cannot be read"),
        ("state.json", "[]", "does not contain a JSON object"),
        ("state.json", "{}", "does not list data files"),
        ("state.json", '{"_data_files": [{"filename": "no.arrow"}]}', r"lists no\.arrow, which is not in"),
        ("state.json", '{"_data_files": [{"filename": "../set/data-00000-of-00002.arrow"}]}', "not in the folder"),
        ("state.json", '{"_data_files": [1], "_indices_data_files": [2]}', "flatten_indices"),
        ("dataset_info.json", None, r"dataset_info\.json cannot be read"),
        ("dataset_info.json", "{}", "name the column to predict"),
        ("data-00001-of-00002.arrow", "not what it says", r"data-00001-of-00002\.arrow cannot be read as Arrow"),
    ],
)
def test_what_datasets_does_not_write(tmp_path: Path, file: str, content: str | None, message: str) -> None:
    path = labelled(tmp_path / "set") / file
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=message):
        as_source(tmp_path / "set")
