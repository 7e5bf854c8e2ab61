"""Files whose last line is a SHA-256 checksum of the rest, so that truncation and corruption are detected.

    content ‖ "sha256 " ‖ 64 hexadecimal digits ‖ newline

The content is read only after the checksum of all of it has been verified. SHA-256, because processors compute it in
hardware and `head -c -72 FILE | sha256sum` checks it by hand. It detects accidents, not tampering: anyone who can write
the file can also replace the checksum.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, cast

from ..errors import DamagedFileError, RunFolderError
from .atomic import write_atomic

LABEL = b"sha256 "
CHECKSUM_LINE_BYTES = len(LABEL) + 64 + 1
_CHUNK_BYTES = 1 << 20


class _Hashing:
    """Writes to a file and updates a digest."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def write_checksummed(path: Path, write: Callable[[IO[bytes]], object], previous: Path | None = None) -> None:
    """Replace a file atomically by content followed by its checksum.

    Args:
        path: the file.
        write: writes the content sequentially to the file object it receives.
        previous: path for a copy of the old file.

    Raises:
        OSError: see `write_atomic`.
    """

    def write_with_checksum(file: BinaryIO) -> None:
        hashing = _Hashing(file)
        write(cast(IO[bytes], hashing))  # it has every method that sequential writing needs
        file.write(LABEL + hashing.digest.hexdigest().encode() + b"\n")

    write_atomic(path, write_with_checksum, previous)


@contextmanager
def open_verified(path: Path) -> Iterator[BinaryIO]:
    """Verify the checksum of a file and open it at its beginning; the checksum line follows the content.

    Raises:
        DamagedFileError: the content does not match its checksum.
        RunFolderError: the file does not exist or cannot be read.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115
    except OSError as error:
        raise RunFolderError(f"cannot read {path}: {error.strerror or error}") from error
    with file:
        try:
            _verify(path, file)
        except DamagedFileError:
            raise
        except OSError as error:
            raise RunFolderError(f"cannot read {path}: {error.strerror or error}") from error
        file.seek(0)
        yield file


def _verify(path: Path, file: BinaryIO) -> None:
    left = file.seek(0, os.SEEK_END) - CHECKSUM_LINE_BYTES
    if left >= 0:
        file.seek(left)
        checksum_line = file.read(CHECKSUM_LINE_BYTES)
    if left < 0 or not checksum_line.startswith(LABEL) or not checksum_line.endswith(b"\n"):
        raise DamagedFileError(f"{path} is damaged: its checksum line is missing, the file may be truncated")
    file.seek(0)
    digest = hashlib.sha256()
    chunk = bytearray(_CHUNK_BYTES)
    view = memoryview(chunk)
    while left > 0:
        count = file.readinto(view[: min(left, _CHUNK_BYTES)])  # type: ignore[attr-defined]
        if not count:
            raise DamagedFileError(f"{path} is damaged: it was truncated while being read")
        digest.update(view[:count])
        left -= count
    if digest.hexdigest().encode() != checksum_line[len(LABEL) : -1]:
        raise DamagedFileError(f"{path} is damaged: its content does not match its SHA-256 checksum")
