"""A folder of images with a CSV file of their labels."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ...errors import DataError
from ...wording import counted, setting
from .image_files import ImageFiles, find_images
from .labels import Targets, file_targets, require_names
from .number_text import DECIMALS, read_number
from .options import FileOptions
from .table_reading import TEXT_SUFFIXES, separator_of


class LabelFile(NamedTuple):
    """A table that names the images of a folder.

    Args:
        path: the table.
        rows: its rows, column by column.
        column: the one with the names of the images.
        images: the images by their names, with and without suffix and folder.
    """

    path: Path
    rows: dict[str, list[str]]
    column: str
    images: dict[str, str]


def label_file(folder: Path, options: FileOptions) -> LabelFile | None:
    """Find the table in a folder that names its images; None if there is none.

    Raises:
        DataError: the table cannot be read, or several name the images.
    """
    tables = sorted(path for path in folder.iterdir() if path.is_file() and path.name.lower().endswith(TEXT_SUFFIXES))
    tables = [path for path in tables if not path.name.lower().endswith(".gz")]
    if not tables:
        return None
    images = _by_name(folder)
    if not images:
        return None
    found = []
    for path in tables:
        rows = _read(path, options)
        for column, values in rows.items():
            if values and sum(value in images for value in values) > len(values) / 2:
                found.append(LabelFile(path, rows, column, images))
                break
    if len(found) > 1:
        raise DataError(
            f"{folder} has several tables that name its images, {', '.join(each.path.name for each in found)}: move "
            "all but one to another folder"
        )
    return found[0] if found else None


def labelled_images(labels: LabelFile, options: FileOptions) -> ImageFiles:
    """Open the images that a table names, with the targets that it has for them.

    Raises:
        DataError: an image does not exist or is named twice, a label is missing, or it is unclear which column is the
            label.
    """
    path, rows, column, images = labels
    target = _target(labels, options)
    names, values = rows[column], rows[target]
    blank = [row for row, value in enumerate(values) if not value.strip()]
    if blank and options.missing != "drop":
        raise DataError(
            f"{path}: the label {target} is missing in {counted(len(blank), 'row')}, the first for {names[blank[0]]}: "
            f"drop those images with {setting('missing', 'drop')}"
        )
    chosen = [row for row, value in enumerate(values) if value.strip()]
    if lost := [names[row] for row in chosen if names[row] not in images]:
        raise DataError(
            f"{path} names {counted(len(lost), 'image')} not in the folder, the first is {lost[0]!r}: correct the names"
        )
    paths = [images[names[row]] for row in chosen]
    if len(set(paths)) < len(paths):
        twice = next(name for name in paths if paths.count(name) > 1)
        raise DataError(f"{path} has several rows for {twice}: leave one row for each image")
    if not chosen:
        raise DataError(f"{path}: no image has a label in the column {target}")
    y = _targets([values[row].strip() for row in chosen], f"{path}: the label {target}", options)
    source = ImageFiles(paths, torch.from_numpy(y.values), options.size, y.names)
    unlabelled = len(set(images.values())) - len(paths)
    notes = [f"labels from {path.name}, column {target}"]
    if blank:
        notes.append(f"dropped {len(blank):,} of {counted(len(values), 'row')} with missing labels")
    if unlabelled:
        notes.append(f"{counted(unlabelled, 'image')} without a label ignored")
    source.notes = (*source.notes, *notes, *y.notes)
    return source


def _target(labels: LabelFile, options: FileOptions) -> str:
    others = [name for name in labels.rows if name != labels.column]
    if options.target is None and len(others) == 1:
        return others[0]
    if options.target in others:
        return str(options.target)
    asked = (
        "name the column of labels" if options.target is None else f"there is no column {options.target!r}: name one"
    )
    raise DataError(
        f"{labels.path}: {asked} ({setting('target')}); besides the names of the images, it has the columns "
        f"{', '.join(others) or '(none)'}"
    )


def _targets(values: list[str], where: str, options: FileOptions) -> Targets:
    sign = options.decimal or DECIMALS[0]
    try:
        plain = [float(value) for value in values] if options.decimal is None else None
    except ValueError:
        plain = None
    if plain is None and options.decimal is not None:
        read = [read_number(value, sign) for value in values]
        if all(number is not None for number in read):
            plain = [number.value for number in read if number is not None]
    if plain is None:
        require_names(sorted(set(values)), len(values), where)
        return file_targets(np.array(values))
    numbers = np.array(plain)
    if all(value.lstrip("+-").isdecimal() for value in values):
        numbers = numbers.astype(np.int64)
    elif not np.isfinite(numbers).all():
        raise DataError(f"{where} has values that are not finite: correct them")
    targets = file_targets(numbers)
    return targets._replace(values=targets.values.astype(np.float32 if targets.values.dtype.kind == "f" else np.int64))


def _read(path: Path, options: FileOptions) -> dict[str, list[str]]:
    separator = separator_of(path, options)
    try:
        with path.open(encoding=options.encoding or "utf-8-sig", newline="") as file:
            header, *rows = [row for row in csv.reader(file, delimiter=separator) if row] or [[]]
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a CSV table: {error}; see {setting('encoding')}") from error
    for number, row in enumerate(rows):
        if len(row) != len(header):
            raise DataError(f"{path}: row {number} has {len(row)} values, the header has {len(header)} names")
    return {name.strip(): [row[at] for row in rows] for at, name in enumerate(header)}


def _by_name(folder: Path) -> dict[str, str]:
    """The images below a folder by every name that a table may use; names of several images are left out."""
    named: dict[str, set[str]] = {}
    for path in find_images(folder).paths:
        inside = Path(path).relative_to(folder)
        for name in (inside.as_posix(), inside.with_suffix("").as_posix(), inside.name, inside.stem):
            named.setdefault(name, set()).add(path)
    return {name: next(iter(paths)) for name, paths in named.items() if len(paths) == 1}
