"""Rows of arrays in `.npy` files, read a few at a time: one file, or shards that follow each other."""

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

RESIDENT_BYTES = 2**27  # arrays up to this size are read whole
READ_BYTES = 2**26  # most bytes asked of the system at a time
MOST_OPEN = 128  # files: a process may have few hundred
UNREADABLE = (ValueError, TypeError, OSError, EOFError, MemoryError)

Array = NDArray[np.generic]


class NpyHeader(NamedTuple):
    """What a `.npy` file holds, and where in it the first row begins."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    by_columns: bool
    offset_bytes: int

    @property
    def bytes(self) -> int:
        """What its numbers take."""
        return prod(self.shape) * self.dtype.itemsize


class NpyRows:
    """The rows of `.npy` files one after another, each file contributing its own.

    Up to 128 MiB in all are held in memory. Of more only the rows asked for are read: a memory map would gather in
    the process whatever has been touched, in pieces of up to 2 MiB for a single row, until all of the file is resident.

    Args:
        paths: at least one file, all of one type and shape of row.

    Raises:
        DataError: a file that does not exist, is no array of numbers or is cut short, or differs from the first.
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
                        f"{header.path} has {what} {given}, {first.path.name} has {expected}: all shards need the same"
                    )
        self.lengths = lengths = [header.shape[0] for header in self._headers]
        self.dtype = first.dtype
        self.shape = (sum(lengths), *first.shape[1:])
        self.nbytes = sum(header.bytes for header in self._headers)
        self._row_bytes = prod(first.shape[1:]) * first.dtype.itemsize
        self._ends = np.cumsum(lengths, dtype=np.int64)
        # Row r of part k begins at byte bases[k] + r · row_bytes of its file.
        self._bases = np.array([h.offset_bytes for h in self._headers]) - (self._ends - lengths) * self._row_bytes
        self._files = OpenFiles([header.path for header in self._headers])
        self._whole: Array | None = None
        if self.nbytes <= RESIDENT_BYTES:
            self._whole = np.concatenate([_read_whole(header) for header in self._headers])
        elif columns := [str(h.path) for h in self._headers if h.by_columns]:
            raise DataError(
                f"{columns[0]} is stored column by column (Fortran order), so that no row can be read alone: save it "
                "with numpy.ascontiguousarray"
            )

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def resident(self) -> bool:
        """Whether all rows are in memory."""
        return self._whole is not None

    def __getitem__(self, rows: NDArray[np.int64]) -> Array:
        """Return a copy of these rows, in this sequence.

        Raises:
            DataError: a file that has become unreadable or shorter.
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
        """Read rows of one file; those that follow each other at once."""
        begins = np.ones(len(rows), bool)
        begins[1:] = np.diff(rows) != 1
        begins[:: max(1, READ_BYTES // max(1, self._row_bytes))] = True
        starts = np.flatnonzero(begins)
        counts = np.diff(np.append(starts, len(rows)))
        offsets = self._bases[part] + rows[starts] * self._row_bytes
        data = self._files.read(part, (counts * self._row_bytes).tolist(), offsets.tolist())
        return np.frombuffer(data, self.dtype).reshape(len(rows), *self.shape[1:])


class OpenFiles:
    """Files read at any place; the most recently opened stay open.

    Args:
        paths: the files, called by their number.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._open: dict[int, int] = {}  # descriptors
        weakref.finalize(self, _close, self._open)

    def __reduce__(self) -> tuple[type[OpenFiles], tuple[Sequence[Path]]]:
        return OpenFiles, (self._paths,)

    def read(self, number: int, sizes: list[int], offsets: list[int]) -> bytearray:
        """Return pieces of so many bytes from these places on, joined.

        Raises:
            DataError: the file cannot be read, or is shorter.
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


# Reading at a place leaves alone the file's position, which forked processes share; Windows has neither.
read_at: Callable[[int, int, int], bytes] = getattr(os, "pread", _seek_and_read)


def read_header(path: Path) -> NpyHeader:
    """Read what a `.npy` file holds.

    Raises:
        DataError: a file that does not exist, is no array of numbers, or is cut short.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist")
    try:
        with path.open("rb") as file:
            start = file.read(2)
            file.seek(0)
            if start == b"PK":
                raise DataError(f"{path} holds several arrays: give one .npz path, or a pair of .npy paths")
            version = np.lib.format.read_magic(file)
            reader = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
            shape, by_columns, dtype = reader(file)
            header = NpyHeader(path, shape, dtype, by_columns and len(shape) > 1, file.tell())
            held = os.fstat(file.fileno()).st_size - header.offset_bytes
    except (*UNREADABLE, TokenError, SyntaxError, KeyError, OverflowError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as an array of numbers: {error}") from error
    if dtype.hasobject:
        raise DataError(f"{path} cannot be read as an array of numbers: it holds Python objects")
    if not shape:
        raise DataError(f"{path} holds a single number: its first dimension must count the samples")
    if min(shape) < 0 or held < header.bytes:
        raise DataError(
            f"{path} cannot be read as an array of numbers: it is cut short, {held:,} bytes for the shape {shape} of "
            f"{dtype}"
        )
    return header


def _read_whole(header: NpyHeader) -> Array:
    try:
        return np.asarray(np.load(header.path, allow_pickle=False))
    except UNREADABLE as error:
        raise DataError(f"{header.path} cannot be read as an array of numbers: {error}") from error
