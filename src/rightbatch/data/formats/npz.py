"""NumPy `.npz` archives, dense or in CSR format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from ...wording import setting
from ..arrays import array_source
from ..prepared import PreparedSource
from ..preprocessing import Preprocessing
from ..source import Source
from .labels import file_targets

X_NAMES = ("x", "data", "features", "inputs", "images")
Y_NAMES = ("y", "target", "targets", "label", "labels")
SPARSE_KEYS = {"format", "shape", "data", "indices", "indptr"}
DENSE_LIMIT_BYTES = 2**31

Arrays = dict[str, NDArray[np.generic]]


def npz_source(path: Path, target: str | None = None) -> Source:
    """Read inputs and targets from an archive.

    The inputs are the array named x, data, features, inputs or images (ignoring case), or a matrix saved by
    scipy.sparse.save_npz, converted to dense if that takes at most 2 GiB. The targets are named y, target or label, or
    given by `target`.

    Args:
        path: the archive.
        target: the key of the targets, if the names are ambiguous.

    Raises:
        DataError: the archive is unreadable, its names are ambiguous, or its arrays are invalid.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays: Arrays = {key: archive[key] for key in _wanted(list(archive.keys()), target, path)}
    except DataError:
        raise
    except Exception as error:  # from zipfile, decompression or headers; MemoryError
        raise DataError(f"{path} cannot be read as an .npz archive of numbers: {str(error)[:300]}") from error
    if strangers := [key for key, array in arrays.items() if not isinstance(array, np.ndarray)]:
        raise DataError(f"{path} cannot be read as an .npz archive of numbers: {strangers[0]} is not an array")
    notes: tuple[str, ...] = ()
    *inputs, target_key = arrays
    x = arrays[inputs[0]]
    if len(inputs) > 1:
        x, notes = _dense(arrays, path), ("sparse rows converted to dense",)
    y = file_targets(arrays[target_key])
    try:
        source = array_source(x, y.values, (*notes, *y.notes))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return source if y.names is None else PreparedSource(source, Preprocessing(y.names))


def _wanted(keys: list[str], target: str | None, path: Path) -> list[str]:
    """Return the keys to read, the targets last."""
    listed = ", ".join(keys)
    if target is not None:
        if target not in keys:
            raise DataError(f"{path} has no array {target!r}; its arrays are {listed}")
        chosen = [target]
    else:
        chosen = [key for key in keys if key.lower() in Y_NAMES]
    if len(chosen) != 1:
        found = f"several possible targets ({', '.join(chosen)})" if chosen else "none named y, target or label"
        raise DataError(f"{path} has the arrays {listed}, {found}: name the targets ({setting('target')})")
    if SPARSE_KEYS.issubset(keys):
        return [*sorted(SPARSE_KEYS), chosen[0]]
    inputs = [key for key in keys if key.lower() in X_NAMES and key != chosen[0]]
    if len(inputs) != 1:
        found = f"several possible inputs ({', '.join(inputs)})" if inputs else "none named x, data or features"
        raise DataError(f"{path} has the arrays {listed}, {found}: load the archive and pass a pair (inputs, targets)")
    return [inputs[0], chosen[0]]


def _dense(arrays: Arrays, path: Path) -> NDArray[np.float32]:
    """Return a CSR matrix as a dense one; duplicate entries are summed."""
    layout = "".join(
        str(part, errors="replace") if isinstance(part, bytes) else str(part) for part in arrays["format"].flat
    )
    if layout != "csr":
        raise DataError(f"{path} contains a sparse matrix in {layout!r} format: save matrix.tocsr() instead")
    values, columns, starts = arrays["data"], arrays["indices"], arrays["indptr"]
    shape = arrays["shape"]
    if shape.shape != (2,) or shape.dtype.kind not in "iu" or shape.min() < 1:
        raise DataError(f"{path} contains a sparse matrix of shape {shape.tolist()}: it must have rows and columns")
    kinds = [(values, "iufb"), (columns, "iu"), (starts, "iu")]
    if any(part.ndim != 1 or part.dtype.kind not in allowed for part, allowed in kinds):
        raise DataError(
            f"{path} contains a sparse matrix with invalid indptr, indices or data: save it with scipy.sparse.save_npz"
        )
    rows, width = (int(size) for size in shape)
    needed = 4 * rows * width
    if needed > DENSE_LIMIT_BYTES:
        raise DataError(
            f"{path} would take {needed / 2**30:.1f} GiB as a dense matrix of {rows} x {width}; the limit is "
            f"{DENSE_LIMIT_BYTES / 2**30:.0f} GiB: select fewer columns"
        )
    consistent = (
        len(starts) == rows + 1
        and starts[0] == 0
        and starts[-1] == len(values) == len(columns)
        and bool(np.all(np.diff(starts.astype(np.int64)) >= 0))
        and (len(columns) == 0 or (columns.min() >= 0 and columns.max() < width))
    )
    if not consistent:
        raise DataError(f"{path} contains a sparse matrix with inconsistent indptr, indices and data")
    dense = np.zeros((rows, width), np.float32)
    np.add.at(dense, (np.repeat(np.arange(rows), np.diff(starts)), columns.astype(np.int64)), values.astype(np.float32))
    return dense
