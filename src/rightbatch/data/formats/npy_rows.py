"""Rows of arrays in one or several `.npy` files, read on demand."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from math import prod
from pathlib import Path
from tokenize import TokenError
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError

RESIDENT_BYTES = 2**27  # arrays up to this size are read completely
MOST_OPEN = 128  # mapped files; each holds a descriptor, and the limit of a process may be a few hundred
UNREADABLE = (ValueError, TypeError, OSError, EOFError, MemoryError)

Array = NDArray[np.generic]


class NpyHeader(NamedTuple):
    """The header of a `.npy` file, and the offset of its first row."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    by_columns: bool
    offset_bytes: int

    @property
    def bytes(self) -> int:
        """Size of its data."""
        return prod(self.shape) * self.dtype.itemsize


class NpyRows:
    """The concatenated rows of `.npy` files.

    Up to 128 MiB in total are read into memory; larger files are mapped, and the requested rows are copied out of the
    map. The pages of a map belong to the system's cache of the file: the system takes them back when memory is short.

    Args:
        paths: at least one file; all have the same type and row shape.

    Raises:
        DataError: a file does not exist, is not an array of numbers, is truncated, or differs from the first.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._headers = [read_header(path) for path in paths]
        first = self._headers[0]
        for header in self._headers[1:]:
            for what, given, expected in (
                ("rows of shape", header.shape[1:], first.shape[1:]),
                ("type", header.dtype, first.dtype),
            ):
                if given != expected:
                    raise DataError(
                        f"{header.path} has {what} {given}, {first.path.name} has {expected}: all shards must be alike"
                    )
        self.lengths = lengths = [header.shape[0] for header in self._headers]
        self.dtype = first.dtype
        self.shape = (sum(lengths), *first.shape[1:])
        self.nbytes = sum(header.bytes for header in self._headers)
        self._ends = np.cumsum(lengths, dtype=np.int64)
        self._files = MappedFiles(self._headers)
        self._whole: Array | None = None
        if self.nbytes <= RESIDENT_BYTES:
            self._whole = np.concatenate([_read_whole(header) for header in self._headers])
        elif columns := [str(h.path) for h in self._headers if h.by_columns]:
            raise DataError(
                f"{columns[0]} is stored in Fortran order and cannot be read by row: save "
                "numpy.ascontiguousarray(array) instead"
            )

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def resident(self) -> bool:
        """Whether all rows are in memory."""
        return self._whole is not None

    def __getitem__(self, rows: NDArray[np.int64]) -> Array:
        """Return a copy of these rows, in this order.

        Raises:
            DataError: a file has become unreadable or shorter.
        """
        if self._whole is not None:
            return self._whole[rows]
        if len(rows) == 0:
            return np.empty((0, *self.shape[1:]), self.dtype)
        if len(self._headers) == 1:
            return self._read(0, rows)
        parts = np.searchsorted(self._ends, rows, "right")
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for part in np.unique(parts).tolist():
            places = np.flatnonzero(parts == part)
            out[places] = self._read(part, rows[places] - (self._ends[part] - self.lengths[part]))
        return out

    def _read(self, part: int, rows: NDArray[np.int64]) -> Array:
        """Read rows of one file."""
        return self._files.read(part, rows).view(self.dtype).reshape(len(rows), *self.shape[1:])


class MappedFiles:
    """Maps of the rows of files; those of the most recently opened files are cached.

    A row is mapped as one item of so many bytes, whatever its type and alignment, so that taking rows copies each at
    once and never the whole array.

    Args:
        headers: the files; they are identified by their index.
    """

    def __init__(self, headers: Sequence[NpyHeader]) -> None:
        self._headers = headers
        self._open: dict[int, tuple[mmap.mmap, Array]] = {}

    def __reduce__(self) -> tuple[type[MappedFiles], tuple[Sequence[NpyHeader]]]:
        return MappedFiles, (self._headers,)

    def read(self, number: int, rows: NDArray[np.int64]) -> Array:
        """Return copies of rows of a file, at least one, one item each.

        Raises:
            DataError: the file cannot be read, or has become shorter.
        """
        header = self._headers[number]
        try:
            if number not in self._open:
                if len(self._open) >= MOST_OPEN:
                    del self._open[next(iter(self._open))]
                self._open[number] = _mapped(header)
            file, mapped = self._open[number]
            size_bytes = file.size()
        except (OSError, ValueError) as error:
            raise DataError(f"{header.path} cannot be read: {error}") from error
        # Reading a map beyond the end of its file would end the process.
        present = min(len(mapped), (size_bytes - header.offset_bytes) // mapped.itemsize)
        if int(rows.max()) >= present:
            raise DataError(f"{header.path} has become shorter since it was opened")
        return mapped.take(rows)


def _mapped(header: NpyHeader) -> tuple[mmap.mmap, Array]:
    with header.path.open("rb") as opened:
        file = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    if hasattr(file, "madvise"):  # not on Windows
        # A row that is not in the cache is read alone, not with 128 KiB around it: 65 instead of 120 µs (2 GB on disk).
        file.madvise(mmap.MADV_RANDOM)
    row_bytes = header.bytes // header.shape[0]
    present = max(0, min(header.shape[0], (len(file) - header.offset_bytes) // row_bytes))
    return file, np.frombuffer(file, np.dtype((np.void, row_bytes)), present, header.offset_bytes)


def read_header(path: Path) -> NpyHeader:
    """Read the header of a `.npy` file.

    Raises:
        DataError: the file does not exist, is not an array of numbers, or is truncated.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist")
    try:
        with path.open("rb") as file:
            start = file.read(2)
            file.seek(0)
            if start == b"PK":
                raise DataError(f"{path} is an .npz archive: pass one path that ends in .npz, or a pair of .npy paths")
            version = np.lib.format.read_magic(file)
            reader = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
            shape, by_columns, dtype = reader(file)
            header = NpyHeader(path, shape, dtype, by_columns and len(shape) > 1, file.tell())
            held = path.stat().st_size - header.offset_bytes
    except (*UNREADABLE, TokenError, SyntaxError, KeyError, OverflowError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as an array of numbers: {error}") from error
    if dtype.hasobject:
        raise DataError(f"{path} cannot be read as an array of numbers: it contains Python objects")
    if not shape:
        raise DataError(f"{path} contains a scalar: its first dimension must be the samples")
    if min(shape) < 0 or held < header.bytes:
        raise DataError(
            f"{path} cannot be read as an array of numbers: it is truncated, with {held:,} bytes for shape {shape} of "
            f"{dtype}"
        )
    return header


def _read_whole(header: NpyHeader) -> Array:
    try:
        return np.asarray(np.load(header.path, allow_pickle=False))
    except UNREADABLE as error:
        raise DataError(f"{header.path} cannot be read as an array of numbers: {error}") from error
