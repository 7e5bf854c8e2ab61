"""Atomic file writes: write a temporary file, fsync it, rename it."""

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES)


def write_atomic(path: Path, write: Callable[[BinaryIO], object], previous: Path | None = None) -> None:
    """Replace a file atomically: after a crash at any moment it has its old content or its new content.

    The content is written to `<name>.new` and flushed to disk (fsync) before the rename; the folder is flushed after
    it. If writing fails, the temporary file is removed to free its space.

    Args:
        path: the file.
        write: writes the content to an open binary file.
        previous: path for a copy of the old file; between the two renames it is the only one of the two that exists.

    Raises:
        OSError: the file cannot be written; the old file is unchanged, possibly under the name `previous`.
    """
    unfinished = path.with_name(path.name + ".new")
    try:
        with open(unfinished, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            os.replace(path, previous)
        os.replace(unfinished, path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush the entries of a folder to disk, where the operating system supports it."""
    if os.name == "nt":  # Windows cannot open a folder
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:  # some network file systems do not support fsync on folders
            raise
    finally:
        os.close(number)
