"""Data sets that the package `datasets` has saved to disk: folders of Arrow files with their features described."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...errors import DataError
from .column_source import ColumnSource
from .columnar import open_columnar
from .columns import Decoder
from .images import decode_column
from .tables import Missing, Text

STATE, SPLITS = "state.json", "dataset_dict.json"
TEST_NAMES = ("test", "validation", "valid", "val")


def is_saved_dataset(folder: Path) -> bool:
    """Whether `Dataset.save_to_disk` or `DatasetDict.save_to_disk` has written the folder."""
    return (folder / STATE).is_file() or (folder / SPLITS).is_file()


def saved_dataset_sources(
    folder: Path, target: str | None, text: Text = "error", missing: Missing = "error"
) -> tuple[ColumnSource, ColumnSource | None]:
    """Open a saved `Dataset`, or the splits of a saved `DatasetDict`; record batches are read as needed.

    The target is the only column of class labels, where none is named. The names of the classes tell how many there
    are. Columns of images are decoded.

    Args:
        folder: with state.json, dataset_info.json and Arrow files, or with dataset_dict.json and a folder a split.
        target: the column to predict.
        text: as for tables; "ordinal" is refused.
        missing: as for tables; only "error".

    Returns:
        The split "train", or the only one; and "test", or else "validation", where there is such.

    Raises:
        DataError: files that are not as `datasets` writes them, splits without "train", or what `ColumnSource` refuses.
        MissingExtraError: pyarrow, or Pillow for images, is not installed.

    Reference: the layout is that of Hugging Face datasets 2 to 4 (`save_to_disk`).
    """
    if not (folder / SPLITS).is_file():
        return _open(folder, target, text, missing), None
    splits = _json(folder / SPLITS).get("splits")
    if not isinstance(splits, list) or not splits or not all(isinstance(name, str) for name in splits):
        raise DataError(f"{folder / SPLITS} names no splits")
    train = "train" if "train" in splits or len(splits) > 1 else splits[0]
    if train not in splits:
        raise DataError(
            f"{folder} has the splits {', '.join(splits)} and none called train: give the folder of one of them"
        )
    test = next((name for name in TEST_NAMES if name in splits and name != train), None)
    return (
        _open(folder / train, target, text, missing),
        None if test is None else _open(folder / test, target, text, missing),
    )


def _open(folder: Path, target: str | None, text: Text, missing: Missing) -> ColumnSource:
    state = _json(folder / STATE)
    if state.get("_indices_data_files"):
        raise DataError(f"{folder} holds a selection by indices: write it out with flatten_indices() and save it again")
    listed = state.get("_data_files")
    if not isinstance(listed, list) or not listed:
        raise DataError(f"{folder / STATE} names no data files")
    paths = [folder / str(entry["filename"]) for entry in listed if isinstance(entry, dict) and "filename" in entry]
    if not paths:
        raise DataError(f"{folder / STATE} names no data files")
    for path in paths:
        if path.parent != folder or not path.is_file():
            raise DataError(f"{folder / STATE} names {path.name}, which is not in the folder")
    features = _json(folder / "dataset_info.json").get("features")
    features = features if isinstance(features, dict) else {}
    labels = [name for name, feature in features.items() if _type(feature) == "ClassLabel"]
    if target is None and len(labels) == 1:
        target = labels[0]
    classes = features[target].get("names") if target in labels else None
    decoders: dict[str, Decoder] = {
        name: decode_column for name, feature in features.items() if _type(feature) == "Image" and name != target
    }
    files = [open_columnar(path) for path in paths]
    return ColumnSource(files, target, text, missing, classes or None, decoders)


def _type(feature: Any) -> str | None:
    return str(feature.get("_type")) if isinstance(feature, dict) else None


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no JSON object")
    return content
