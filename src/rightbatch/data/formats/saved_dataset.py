"""Data sets saved by the package `datasets`: folders of Arrow files with a description of their features."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import DataError
from ..source import Source
from .column_source import column_source
from .columnar import open_columnar
from .columns import Decoder
from .images import decode_column
from .options import FileOptions

STATE, SPLITS = "state.json", "dataset_dict.json"
TEST_NAMES = ("test", "validation", "valid", "val")


def is_saved_dataset(folder: Path) -> bool:
    """Whether the folder was written by `Dataset.save_to_disk` or `DatasetDict.save_to_disk`."""
    return (folder / STATE).is_file() or (folder / SPLITS).is_file()


def saved_dataset_sources(folder: Path, options: FileOptions) -> tuple[Source, Source | None]:
    """Open a saved `Dataset`, or the splits of a saved `DatasetDict`; record batches are read on demand.

    The default target is the only column of class labels; its class names give the number of classes. Image columns are
    decoded.

    Args:
        folder: contains state.json, dataset_info.json and Arrow files, or dataset_dict.json and one folder per split.
        options: see `as_source`.

    Returns:
        The split "train", or the only split; and the split "test" or "validation", if there is one.

    Raises:
        DataError: the files are invalid, there is no split "train", or see `ColumnSource`.
        MissingExtraError: pyarrow, or Pillow for images, is not installed.

    Reference: the file layout of Hugging Face datasets 2 to 4 (`save_to_disk`).
    """
    if not (folder / SPLITS).is_file():
        return _open(folder, options), None
    splits = _json(folder / SPLITS).get("splits")
    if not isinstance(splits, list) or not splits or not all(isinstance(name, str) for name in splits):
        raise DataError(f"{folder / SPLITS} does not list splits")
    train = "train" if "train" in splits or len(splits) > 1 else splits[0]
    if train not in splits:
        raise DataError(
            f"{folder} has the splits {', '.join(splits)} but no split 'train': pass the folder of one of them"
        )
    test = next((name for name in TEST_NAMES if name in splits and name != train), None)
    return (
        _open(folder / train, options),
        None if test is None else _open(folder / test, options),
    )


def _open(folder: Path, options: FileOptions) -> Source:
    state = _json(folder / STATE)
    if state.get("_indices_data_files"):
        raise DataError(f"{folder} contains a selection by indices: call flatten_indices() and save it again")
    listed = state.get("_data_files")
    if not isinstance(listed, list) or not listed:
        raise DataError(f"{folder / STATE} does not list data files")
    paths = [folder / str(entry["filename"]) for entry in listed if isinstance(entry, dict) and "filename" in entry]
    if not paths:
        raise DataError(f"{folder / STATE} does not list data files")
    for path in paths:
        if path.parent != folder or not path.is_file():
            raise DataError(f"{folder / STATE} lists {path.name}, which is not in the folder")
    features = _json(folder / "dataset_info.json").get("features")
    features = features if isinstance(features, dict) else {}
    labels = [name for name, feature in features.items() if _type(feature) == "ClassLabel"]
    target = options.target
    if target is None and len(labels) == 1:
        target = labels[0]
    classes = features[target].get("names") if target in labels else None
    decoders: dict[str, Decoder] = {
        name: decode_column for name, feature in features.items() if _type(feature) == "Image" and name != target
    }
    files = [open_columnar(path) for path in paths]
    return column_source(files, replace(options, target=target), classes or None, decoders)


def _type(feature: Any) -> str | None:
    return str(feature.get("_type")) if isinstance(feature, dict) else None


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} does not contain a JSON object")
    return content
