"""Sealed files: a SHA-256 digest of the whole content in the last line, so that truncation and alteration are noticed.

    content ‖ "sha256 " ‖ 64 hexadecimal digits ‖ newline

The content is used only after all of it has agreed with its digest. SHA-256, because processors compute it in hardware
and `head -c -72 FILE | sha256sum` does so by hand. It tells accidents, not malice: whoever can write the file can seal
it again.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, cast

from ..errors import DamagedFileError, RunFolderError
from .atomic import write_whole

LABEL = b"sha256 "
SEAL_BYTES = len(LABEL) + 64 + 1
_CHUNK_BYTES = 1 << 20


class _Hashing:
    """Passes what is written on to a file and digests it on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def write_sealed(path: Path, write: Callable[[IO[bytes]], object], previous: Path | None = None) -> None:
    """Replace a file by sealed content, whole or not at all.

    Args:
        path: the file.
        write: writes the content to what it is given, front to back.
        previous: the name under which the old file is kept.

    Raises:
        OSError: as `write_whole`.
    """

    def write_and_seal(file: BinaryIO) -> None:
        hashing = _Hashing(file)
        write(cast(IO[bytes], hashing))  # all of it that writing from front to back needs
        file.write(LABEL + hashing.digest.hexdigest().encode() + b"\n")

    write_whole(path, write_and_seal, previous)


@contextmanager
def open_sealed(path: Path) -> Iterator[BinaryIO]:
    """Open a sealed file whose content agrees with its digest, at its beginning; the seal follows the content.

    Raises:
        DamagedFileError: the content is not what was written.
        RunFolderError: there is no such file, or it cannot be read.
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
    left = file.seek(0, os.SEEK_END) - SEAL_BYTES
    if left >= 0:
        file.seek(left)
        seal = file.read(SEAL_BYTES)
    if left < 0 or not seal.startswith(LABEL) or not seal.endswith(b"\n"):
        raise DamagedFileError(f"{path} is damaged: it is cut short, or was never sealed by a digest")
    file.seek(0)
    digest = hashlib.sha256()
    chunk = bytearray(_CHUNK_BYTES)
    view = memoryview(chunk)
    while left > 0:
        count = file.readinto(view[: min(left, _CHUNK_BYTES)])  # type: ignore[attr-defined]
        if not count:
            raise DamagedFileError(f"{path} is damaged: it became shorter while it was read")
        digest.update(view[:count])
        left -= count
    if digest.hexdigest().encode() != seal[len(LABEL) : -1]:
        raise DamagedFileError(f"{path} is damaged: its content does not agree with its SHA-256 digest")
