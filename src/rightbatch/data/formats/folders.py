"""Folders, read according to their content."""

from __future__ import annotations

import re
from pathlib import Path

from ...errors import DataError
from ..source import Source
from .column_source import column_source
from .columnar import ARROW_SUFFIXES, PARQUET_SUFFIXES, open_columnar
from .idx import idx_sources
from .image_files import find_images
from .image_folder import image_sources, is_image_folder
from .labelled_images import label_file, labelled_images
from .memory_map import has_shards, memory_map_source, natural, shard_source
from .options import FileOptions
from .saved_dataset import TEST_NAMES, is_saved_dataset, saved_dataset_sources

FOLDERS = (
    "x.npy and y.npy, shards of them (x-00000.npy, y-00000.npy, ...), IDX files (train-images* and train-labels*), "
    "Parquet or Arrow files, a data set saved by the package datasets, one folder of images per class, or images with "
    "a table of their labels"
)


def folder_sources(folder: Path, options: FileOptions) -> tuple[Source, Source | None]:
    """Open a folder; the second source is the test part, if it has one.

    Raises:
        DataError: the folder has an unknown format, or its data are invalid.
        MissingExtraError: an optional package is not installed.
    """
    if (folder / "x.npy").exists() and (folder / "y.npy").exists():
        return memory_map_source(folder / "x.npy", folder / "y.npy"), None
    if has_shards(folder):
        return shard_source(folder), None
    if any(folder.glob("train-images*")):
        return idx_sources(folder)
    if is_saved_dataset(folder):
        return saved_dataset_sources(folder, options)
    for suffixes in (PARQUET_SUFFIXES, ARROW_SUFFIXES):
        paths = [path for path in folder.iterdir() if path.name.lower().endswith(suffixes) and path.is_file()]
        if paths:
            train, test = _parts(sorted(paths, key=lambda path: natural(path.name)))
            return _columns(train, options), _columns(test, options) if test else None
    if (labels := label_file(folder, options)) is not None:
        return labelled_images(labels, options), None
    if is_image_folder(folder):
        return image_sources(folder, options.size)
    if find_images(folder).paths:
        raise DataError(
            f"the folder {folder} has images without labels: put them into one subfolder per class, or add a table "
            "labels.csv with a column of their names and one of their labels"
        )
    raise DataError(f"the folder {folder} has an unknown format; supported are {FOLDERS}")


def _columns(paths: list[Path], options: FileOptions) -> Source:
    return column_source([open_columnar(path) for path in paths], options)


def _parts(paths: list[Path]) -> tuple[list[Path], list[Path]]:
    """Split files by name into those for training, such as train-00000-of-00004.parquet, and those for testing."""
    named: dict[str, list[Path]] = {}
    for path in paths:
        match = re.match(rf"(train|{'|'.join(TEST_NAMES)})(?![a-z])", path.name.lower())
        named.setdefault(match[1] if match else "", []).append(path)
    if "train" not in named:
        return paths, []
    if "" in named:
        raise DataError(
            f"{named['train'][0]} names its part, {named[''][0]} does not: name all files by their part, or none"
        )
    return named["train"], next((named[name] for name in TEST_NAMES if name in named), [])
