"""New data for a trained model: files without targets, prepared as the training data were."""

from __future__ import annotations

from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from typing import cast

import numpy as np
import torch

from ..errors import DataError
from ..wording import counted, setting
from .arrays import TensorSource, array_source
from .formats.columnar import ARROW_SUFFIXES, PARQUET_SUFFIXES
from .formats.image_files import SUFFIXES, ImageFiles, find_images
from .formats.npz import npz_source
from .formats.options import FileOptions, Missing
from .formats.table_reading import TEXT_SUFFIXES, read_table
from .formats.tables import encoded, known_features
from .prepared import PreparedSource, Standardizer
from .preprocessing import Preprocessing, TableLayout
from .source import Source

TABLE_SUFFIXES = (*TEXT_SUFFIXES, *PARQUET_SUFFIXES, *ARROW_SUFFIXES)


@dataclass(frozen=True, slots=True)
class NewData:
    """Inputs for predictions.

    Args:
        source: the inputs; its targets are meaningless.
        names: one for every row or image of the file.
        kept: which of them `source` has, in order; the others get no prediction.
        reports: what was not as in the training data, as text.
    """

    source: Source
    names: list[str]
    kept: list[int]
    reports: tuple[str, ...] = ()


def open_new(data: str | PathLike[str], preprocessing: Preprocessing | None, options: FileOptions) -> NewData:
    """Open a file or a folder without targets.

    Args:
        data: for a model of a table, a table with its columns, in any order; for a model of images, an image or a
            folder of images, also in subfolders; for any but that of a table, an array in `.npy`, or an archive as
            `as_source` reads it.
        preprocessing: of the training data; None if nothing was done to them.
        options: for this file; where they are None, or missing is "error", as for the training data.

    Raises:
        DataError: the file does not suit the model, lacks columns or values, or cannot be read.
        MissingExtraError: an optional package is not installed.
    """
    path = Path(fspath(data))
    preprocessing = preprocessing or Preprocessing()
    name = path.name.lower()
    array = name.endswith((".npy", ".npz"))
    if preprocessing.table is not None:
        wanted = f"one table ({', '.join(TABLE_SUFFIXES)}) with the columns of the training table"
    elif preprocessing.images is not None:
        wanted = f"an image ({', '.join(SUFFIXES)}), a folder of images, or an array (.npy)"
    else:
        wanted = "an array (.npy), or an archive (.npz)"
    if not path.exists():
        raise DataError(f"{path} does not exist: provide {wanted}")
    if preprocessing.table is not None and name.endswith(TABLE_SUFFIXES) and path.is_file():
        return _table(path, preprocessing, preprocessing.table, options)
    if preprocessing.table is None and array and path.is_file():
        return _array(path, preprocessing, options)
    if preprocessing.images is not None and (path.is_dir() or name.endswith(SUFFIXES)):
        return _images(path, preprocessing)
    raise DataError(f"{path} is not what the model was trained on: provide {wanted}")


def _array(path: Path, preprocessing: Preprocessing, options: FileOptions) -> NewData:
    if path.name.lower().endswith(".npz"):
        opened = npz_source(path, options.target)
        raw = opened.raw if isinstance(opened, PreparedSource) else opened
    else:
        try:
            x = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path} cannot be read as an array: {error}") from error
        try:
            raw = array_source(x, np.zeros(len(x) if x.ndim else 0))
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
    rows = range(len(raw))
    return NewData(_standardized(raw, preprocessing), [str(row) for row in rows], list(rows))


def _standardized(raw: Source, preprocessing: Preprocessing) -> Source:
    found = preprocessing.statistics
    if found is None:
        return raw
    if raw.x_shape != (len(found.mean),):
        raise DataError(f"the inputs have the shape {list(raw.x_shape)}; the model was trained on {[len(found.mean)]}")
    return PreparedSource(raw, preprocessing, Standardizer(None, [True] * len(found.mean), True, found))


def _table(path: Path, preprocessing: Preprocessing, table: TableLayout, given: FileOptions) -> NewData:
    text = path.name.lower().endswith(TEXT_SUFFIXES)
    options = replace(
        given,
        separator=given.separator or (table.separator if text else None),
        decimal=given.decimal or table.decimal,
        encoding=given.encoding or table.encoding,
        missing=cast(Missing, table.missing) if given.missing == "error" else given.missing,
    )
    frame = read_table(path, options)
    if len(frame) == 0:
        raise DataError(f"{path} is empty: it has the columns {', '.join(frame.columns)} and no rows")
    features = known_features(frame, table, path, options)
    known = {table.target, *(column.name for column in table.columns)}
    unused = [name for name in frame.columns if name not in known]
    reports = (f"columns that the model does not use: {', '.join(unused)}",) if unused else ()
    blank = features.isna()
    incomplete = np.flatnonzero(blank.any(axis=1).to_numpy())
    listed = ", ".join(f"{name} ({int(count):,})" for name, count in blank.sum().items() if count)
    kept = np.arange(len(frame))
    if len(incomplete) and options.missing == "error":
        raise DataError(
            f"{path}: values are missing in {listed}, the first in row {incomplete[0]:,}: leave those rows without a "
            f"prediction with {setting('missing', 'drop')}, or fill in the means of the training data with "
            f"{setting('missing', 'mean')}"
        )
    if len(incomplete) and options.missing == "drop":
        kept = np.setdiff1d(kept, incomplete)
        reports = (
            *reports,
            f"no prediction for {len(incomplete):,} of {counted(len(frame), 'row')}, whose values are missing",
        )
        if not len(kept):
            raise DataError(f"{path}: every row has a missing value ({listed}); provide values for these columns")
    elif len(incomplete):
        if preprocessing.statistics is None:
            raise DataError(f"{path}: values are missing in {listed}, and the run stored no means to fill in")
        reports = (*reports, f"missing values filled in with the means of the training data: {listed}")
    x, unknown = encoded(features.iloc[kept], table.columns, str(path), options.missing)
    infinite = np.flatnonzero(np.isinf(x).any(1))
    if len(infinite):
        raise DataError(f"{path}: row {kept[infinite[0]]:,} has a value that is infinite in float32: correct it")
    raw = TensorSource(torch.from_numpy(x), torch.zeros(len(x), dtype=torch.int64))
    source = _standardized(raw, preprocessing)
    return NewData(source, [str(row) for row in range(len(frame))], kept.tolist(), (*reports, *unknown))


def _images(path: Path, preprocessing: Preprocessing) -> NewData:
    if path.is_dir():
        paths = find_images(path).paths
        names = [Path(each).relative_to(path).as_posix() for each in paths]
    else:
        paths, names = [str(path)], [path.name]
    if not paths:
        raise DataError(f"{path} has no images ({', '.join(SUFFIXES)}), on which the model was trained")
    source = ImageFiles(paths, torch.zeros(len(paths), dtype=torch.int64), layout=preprocessing.images)
    return NewData(source, names, list(range(len(paths))))
