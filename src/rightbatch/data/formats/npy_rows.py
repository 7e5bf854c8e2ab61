"""Rows of arrays in one or several `.npy` files, read on demand."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from tokenize import TokenError
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError

RESIDENT_BYTES = 2**27  # arrays up to this size are read completely
READ_BYTES = 2**26  # maximum size of one read
MOST_OPEN = 128  # open files; the limit of a process may be a few hundred
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

    Up to 128 MiB in total are read into memory; otherwise only the requested rows are read. A memory map would keep
    every page it touches, up to 2 MiB for a single row, until the whole file is resident.

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
        self._row_bytes = prod(first.shape[1:]) * first.dtype.itemsize
        self._ends = np.cumsum(lengths, dtype=np.int64)
        # Row r of file k starts at byte bases[k] + r · row_bytes.
        self._bases = np.array([h.offset_bytes for h in self._headers]) - (self._ends - lengths) * self._row_bytes
        self._files = OpenFiles([header.path for header in self._headers])
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
        if len(self._headers) == 1 or len(rows) == 0:
            return self._read(0, rows)
        parts = np.searchsorted(self._ends, rows, "right")
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for part in np.unique(parts).tolist():
            places = np.flatnonzero(parts == part)
            out[places] = self._read(part, rows[places])
        return out

    def _read(self, part: int, rows: NDArray[np.int64]) -> Array:
        """Read rows of one file, consecutive ones in one read."""
        begins = np.ones(len(rows), bool)
        begins[1:] = np.diff(rows) != 1
        begins[:: max(1, READ_BYTES // max(1, self._row_bytes))] = True
        starts = np.flatnonzero(begins)
        counts = np.diff(np.append(starts, len(rows)))
        offsets = self._bases[part] + rows[starts] * self._row_bytes
        data = self._files.read(part, (counts * self._row_bytes).tolist(), offsets.tolist())
        return np.frombuffer(data, self.dtype).reshape(len(rows), *self.shape[1:])


class OpenFiles:
    """Files with random access; the most recently opened stay open.

    Args:
        paths: the files; they are identified by their index.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._open: dict[int, int] = {}  # descriptors
        weakref.finalize(self, _close, self._open)

    def __reduce__(self) -> tuple[type[OpenFiles], tuple[Sequence[Path]]]:
        return OpenFiles, (self._paths,)

    def read(self, number: int, sizes: list[int], offsets: list[int]) -> bytearray:
        """Return the concatenated pieces of these sizes at these offsets.

        Raises:
            DataError: the file cannot be read, or has become shorter.
        """
        try:
            file = self._open.get(number)
            if file is None:
                if len(self._open) >= MOST_OPEN:
                    os.close(self._open.pop(next(iter(self._open))))
                file = self._open[number] = os.open(self._paths[number], os.O_RDONLY | getattr(os, "O_BINARY", 0))
            read = bytearray().join([read_at(file, size, place) for size, place in zip(sizes, offsets, strict=True)])
        except OSError as error:
            raise DataError(f"{self._paths[number]} cannot be read: {error}") from error
        if len(read) < sum(sizes):
            raise DataError(f"{self._paths[number]} has become shorter since it was opened")
        return read


def _close(descriptors: dict[int, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)


def _seek_and_read(descriptor: int, size: int, place: int) -> bytes:
    os.lseek(descriptor, place, os.SEEK_SET)
    return os.read(descriptor, size)


# pread does not change the file position, which forked processes share; Windows has neither pread nor fork.
read_at: Callable[[int, int, int], bytes] = getattr(os, "pread", _seek_and_read)


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
            held = os.fstat(file.fileno()).st_size - header.offset_bytes
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
