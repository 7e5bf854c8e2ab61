"""Conversion of data to a source: tensors, arrays, data sets, files, folders, built-in names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from copy import copy
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from multiprocessing import get_all_start_methods
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, arange
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..errors import DataError, InputError, MissingExtraError
from .arrays import TensorSource, array_source
from .collating import Collate
from .formats.column_source import column_source
from .formats.columnar import ARROW_SUFFIXES, PARQUET_SUFFIXES, ParquetFile, open_columnar
from .formats.columns import is_list
from .formats.folders import FOLDERS, folder_sources
from .formats.labels import label_names
from .formats.memory_map import MemoryMapSource, memory_map_source
from .formats.npz import npz_source
from .formats.options import FileOptions, Missing, Size, TextChoice
from .formats.table_reading import TEXT_SUFFIXES
from .formats.tables import table_source
from .lengths import with_lengths
from .loaders import loader_source
from .map_style import DatasetSource, NestRows, dataset_source
from .nest import is_container
from .nest_source import NestSource, is_sparse, nest_source
from .prepared import PreparedSource, prepared_alike, standardized
from .preprocessing import Preprocessing
from .source import NEEDED, Source, require_map_style
from .split import hold_out
from .synthetic import blobs, quadratic
from .workers.source import WorkerSource

BUILT_IN = ("digits", "blobs", "three-blobs", "quadratic")
TEST_FRACTION = 0.2
WHOLE_BYTES = 2**28  # larger Parquet files are read on demand
FORMS = (
    "tensors or arrays with the samples in the first dimension, as a pair (x, y), a mapping or another nest; a "
    "map-style torch Dataset, a DataLoader or a list of samples; a path: .npz, .csv, .tsv, .parquet, .arrow, a pair of "
    f".npy files, or a folder of {FOLDERS}; or a subclass of rightbatch.data.Source"
)


@dataclass(frozen=True, slots=True)
class Splits:
    """A named data set: its training part, and its test part if it has one."""

    train: Source
    test: Source | None
    name: str


def as_source(
    data: object,
    *,
    collate: Collate | None = None,
    lengths: Any = None,
    group_by_length: bool = False,
    max_tokens: int | None = None,
    order: str | None = None,
    target: str | None = None,
    text: TextChoice = "auto",
    missing: Missing = "error",
    separator: str | None = None,
    decimal: str | None = None,
    encoding: str | None = None,
    standardize: bool | None = None,
    size: Size | None = None,
) -> Source:
    """Check data and convert them to a source.

    Args:
        data: a nest (pair, tuple, mapping, dataclass) of tensors, arrays, memory maps, scipy sparse matrices and lists
            of texts, with the samples in the first dimension; a pair of paths of `.npy` files; a map-style torch
            `Dataset`, Hugging Face `Dataset` or list of samples; a `DataLoader`, whose data set, collate function,
            sampler and workers are taken over; the path of an `.npz`, CSV, TSV, Parquet or Arrow file, or of a folder,
            whose training part is used; or a source. A folder contains x.npy and y.npy, shards of them (x-00000.npy,
            y-00000.npy, ...), IDX files, Parquet or Arrow files, a data set saved by the package datasets, one folder
            of images per class, or images with a table of their labels.
        collate: function from a list of samples to a batch, for samples that cannot be stacked.
        lengths: of samples of unequal length: one number per sample, or a function of a sample.
        group_by_length: whether samples of similar length are neighbours in the order.
        max_tokens: largest padded size of a forward pass, its samples times the longest of them.
        order: "sequential" visits the samples as they are stored (default: shuffled).
        target: the key or the column to predict, for `.npz` and tables.
        text: text columns of tables. "auto" makes one input of each value of a column with fewer than 20, and raises an
            error for others; "one-hot" does so up to 1,000 values; "codes" numbers the values in sorted order; "drop"
            drops the columns; "error" raises an error. Or a mapping of columns to these choices; a column that it
            names, text or not, is treated as it says.
        missing: missing values of tables: "error", "drop" the rows, or fill in the "mean" of the training part. Tables
            larger than memory are read on demand and support only "error".
        separator: between the columns of a text file (default: a comma, and a tab in `.tsv`).
        decimal: "." or ",": numbers may have thousands separators, percent signs and currencies, and this decimal sign.
            By default these raise an error.
        encoding: of a text file (default: UTF-8).
        standardize: subtract the mean of each input and divide by its deviation, both of the training part: once the
            data are split, of the part that is not held out. Default: yes for the numbers of tables, no for other data.
        size: of images: one number, (height, width) or text such as "64x48" to resize them, or "crop:64" to cut out
            their centre.

    Raises:
        DataError: the data are invalid; the message states why and what to do.
        InputError: an option that is not allowed.
        MissingExtraError: a table requires pandas or pyarrow, which is not installed.
    """
    options = FileOptions(target, text, missing, separator, decimal, encoding, standardize, size)
    source = _as_source(data, options, collate)
    source = standardized(source) if standardize else source
    if order not in (None, "sequential"):
        raise InputError(f"order must be 'sequential' or None, which shuffles, got {order!r}")
    if order is not None:
        source = copy(source)  # the caller's own may be in use
        source.shuffle = False
    if lengths is None and not group_by_length and max_tokens is None:
        return source
    return with_lengths(source, lengths, group_by_length, max_tokens)


def _as_source(data: object, options: FileOptions, collate: Collate | None) -> Source:
    if isinstance(data, DataLoader):
        return loader_source(data, collate)
    if hasattr(data, "iloc") and hasattr(data, "columns"):
        raise DataError(
            "a DataFrame does not say what to predict: pass a pair (frame[inputs], frame[target]), or dict(frame) and "
            "an objective"
        )
    if collate is not None and not isinstance(data, str | PathLike | Source | IterableDataset | Iterator):
        return DatasetSource(data if _has_items(data) else NestRows(nest_source(data)), collate)
    if collate is not None:
        raise DataError(f"collate= does not apply to a {type(data).__name__}: pass a data set, a loader or a nest")
    if isinstance(data, (str, PathLike)):
        return _open(Path(fspath(data)), options)[0]
    if isinstance(data, Source):
        _require_described(data)
        return data
    if isinstance(data, IterableDataset | Iterator):
        raise DataError(
            f"{type(data).__name__} only supports sequential access. Pass the data set itself, or write the samples "
            "with rightbatch.data.write_shards(samples, folder) and pass the folder; or train on the stream, with "
            "fewer guarantees, with rightbatch.data.as_stream(samples, length=...)"
        )
    if _has_items(data):
        return dataset_source(data)  # type: ignore[arg-type]
    if isinstance(data, tuple | list) and len(data) == 2 and not hasattr(data, "_fields"):
        return _pair(*data)
    if isinstance(data, Tensor | np.ndarray) or is_container(data):
        return nest_source(data)
    raise DataError(f"unsupported data of type {type(data).__name__}: pass {FORMS}")


def _has_items(data: object) -> bool:
    """Whether data are a data set or a list of samples, and not a nest of columns."""
    if isinstance(data, Dataset):
        return True
    if isinstance(data, list):  # [x, y] is a pair; of two pairs, which have one sample each, it is a list
        columns = len(data) == 2 and not isinstance(data[0], tuple | Mapping)
        return is_container(data) and not columns
    sized = isinstance(data, Sized) and hasattr(data, "__getitem__")
    return sized and not isinstance(data, tuple | Mapping | Tensor | np.ndarray | str | bytes) and not is_sparse(data)


def _require_described(source: Source) -> None:
    if source.pair and (missing_names := [name for name in NEEDED if not hasattr(source, name)]):
        raise DataError(
            f"{type(source).__name__} has no {', '.join(missing_names)}: a subclass of rightbatch.data.Source must "
            f"define {', '.join(NEEDED)}, or pair = False"
        )


def with_workers(
    data: object, workers: int = 2, *, method: str | None = None, collate: Collate | None = None
) -> Source:
    """Prefetch samples in worker processes, for data sets whose items are slow to decode or to augment.

    The batch size may change at any step. The random generators of Python, NumPy and torch are seeded for each item by
    (seed of the order, epoch, item), independently of the number of workers. Workers end with the process that started
    them. Tensors in memory are returned unchanged.

    Args:
        data: a map-style `Dataset`, or any data that `as_source` accepts.
        workers: number of processes, at least 1.
        method: start method: "fork", "spawn" or "forkserver" (default: that of the platform).
        collate: see `as_source`; called in this process, since batches are cut here.

    Raises:
        DataError: the data are invalid, or are read in blocks, which every worker would have to read.
        InputError: workers or method out of range.
    """
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise InputError(
            f"workers must be a whole number of at least 1, got {workers!r}; to use none, pass the data directly"
        )
    if method is not None and method not in get_all_start_methods():
        raise InputError(f"method={method!r} is not available: use one of {', '.join(get_all_start_methods())}")
    source = as_source(data, collate=collate)
    require_map_style(source, "used with worker processes")
    if source.block_ends is not None:
        raise DataError(
            "these data are read in blocks, and every worker would read all blocks: pass them without workers"
        )
    raw = source.raw if isinstance(source, PreparedSource) else source
    if isinstance(raw, TensorSource | NestSource | WorkerSource):
        return source
    return WorkerSource(source, workers, method)


def load(
    name: str | PathLike[str],
    *,
    target: str | None = None,
    seed: int = 0,
    text: TextChoice = "auto",
    missing: Missing = "error",
    separator: str | None = None,
    decimal: str | None = None,
    encoding: str | None = None,
    standardize: bool | None = None,
    size: Size | None = None,
) -> Splits:
    """Load a built-in data set by name, or any path that `as_source` reads.

    Args:
        name: "digits" (scikit-learn's, pixels scaled to 0..1), "blobs", "three-blobs" (scikit-learn's, as in a
            published experiment; the first half for training, the second for testing), "quadratic", or a path.
        target: see `as_source`.
        seed: seed of the split of digits and blobs: 80 % for training, 20 % for testing.
        text: see `as_source`; so are the options below.
        missing: see `as_source`.
        separator: see `as_source`.
        decimal: see `as_source`.
        encoding: see `as_source`.
        standardize: see `as_source`.
        size: see `as_source`.

    Raises:
        DataError: neither a built-in name nor an existing path, or invalid data.
        MissingExtraError: an optional package is not installed.
    """
    options = FileOptions(target, text, missing, separator, decimal, encoding, standardize, size)
    match name:
        case "digits":
            train, test = hold_out(_digits(), TEST_FRACTION, seed)
            return Splits(train, test, "digits")
        case "blobs":
            train, test = hold_out(blobs(), TEST_FRACTION, seed)
            return Splits(train, test, "blobs")
        case "three-blobs":
            return Splits(*_three_blobs(), "three-blobs")
        case "quadratic":
            return Splits(quadratic().source, None, "quadratic")
    path = Path(fspath(name))
    if not path.exists():
        raise DataError(
            f"no data set, file or folder {str(name)!r}; built-in data sets: {', '.join(BUILT_IN)}"
            f"{_nearby(path, BUILT_IN)}"
        )
    source, other = _open(path, options)
    source = standardized(source) if standardize else source
    held_out = None if other is None else prepared_alike(source, other, "test")
    return Splits(source, held_out, path.resolve().name.split(".")[0])


def _digits() -> TensorSource:
    images, labels = _scikit_learn("digits").load_digits(return_X_y=True)
    return array_source(images.reshape(-1, 1, 8, 8) / 16, labels, ("pixels scaled to 0..1",))


def _three_blobs() -> tuple[TensorSource, TensorSource]:
    """1,000 points about 3 centres in the plane, standard deviation 2, seed 2; 500 for training, 500 for testing.

    Reference: J. Brownlee, How to Control the Stability of Training Neural Networks With the Batch Size (2019).
    """
    x, y = _scikit_learn("three-blobs").make_blobs(1000, 2, centers=3, cluster_std=2, random_state=2)
    whole = array_source(x, y, ("3 Gaussian blobs",))
    return whole.subset(arange(500)), whole.subset(arange(500, 1000))


def _scikit_learn(name: str) -> Any:
    try:
        return import_module("sklearn.datasets")
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "demo", f"The built-in data set {name!r}") from error


def _pair(x: Any, y: Any) -> Source:
    if isinstance(x, (str, PathLike)) and isinstance(y, (str, PathLike)):
        return memory_map_source(Path(fspath(x)), Path(fspath(y)))
    named = label_names(y)
    if named is not None:
        return PreparedSource(_pair_of(x, named.values, named.notes), Preprocessing(named.names))
    return _pair_of(x, y)


def _pair_of(x: Any, y: Any, notes: tuple[str, ...] = ()) -> Source:
    if isinstance(x, np.memmap) and not is_container(y):
        return MemoryMapSource(x, np.asarray(y))
    if is_container(x) or is_container(y) or is_sparse(x):
        return nest_source((x, y), notes)
    return array_source(x, y, notes)


def _open(path: Path, options: FileOptions) -> tuple[Source, Source | None]:
    """Open a path by its format; the second source is the test part, if the format has one."""
    if not path.exists():
        raise DataError(f"{path} does not exist{_nearby(path)}")
    if path.is_dir():
        return folder_sources(path, options)
    kind = path.name.lower()
    if kind.endswith(".npz"):
        return npz_source(path, options.target), None
    if kind.endswith(TEXT_SUFFIXES):
        return table_source(path, options), None
    if kind.endswith((*PARQUET_SUFFIXES, *ARROW_SUFFIXES)):
        return _columnar(path, options), None
    if kind.endswith(".npy"):
        raise DataError(f"{path} contains a single array without targets: pass a pair of paths (x.npy, y.npy)")
    if "-ubyte" in kind:
        raise DataError(f"{path} is one of four IDX files: pass their folder, {path.parent}")
    raise DataError(f"{path} has an unknown format: pass {FORMS}")


def _columnar(path: Path, options: FileOptions) -> Source:
    """Read a small Parquet file completely, larger ones and Arrow files on demand."""
    file = open_columnar(path)
    if isinstance(file, ParquetFile) and file.bytes <= WHOLE_BYTES and not any(is_list(f.type) for f in file.schema):
        return table_source(path, options)
    return column_source([file], options)


def _nearby(path: Path, names: tuple[str, ...] = ()) -> str:
    """Return a suggestion: built-in names and neighbouring files with similar names."""
    beside = {entry.name: str(entry) for entry in path.parent.iterdir()} if path.parent.is_dir() else {}
    close = [*get_close_matches(path.name, names, 3), *(beside[n] for n in get_close_matches(path.name, beside, 3))]
    return f"; did you mean {' or '.join(close)}?" if close else ""
