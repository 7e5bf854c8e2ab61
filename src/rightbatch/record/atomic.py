"""Files that are there whole or not at all: written aside, brought to the disk, renamed."""

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES)


def write_whole(path: Path, write: Callable[[BinaryIO], object], previous: Path | None = None) -> None:
    """Replace a file so that a crash at any moment leaves the old content or the new one, never a part of it.

    The content goes to `<name>.new` and to the disk (fsync) before it takes the name, and the folder, which holds the
    names, goes to the disk after. What could not be finished is removed, to give back its space.

    Args:
        path: the file.
        write: writes the content to an open file.
        previous: the name under which the old file is kept; between the two renames it is the only one there.

    Raises:
        OSError: it cannot be written; the old file is as it was, if need be under the name `previous`.
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
    """Bring the names in a folder to the disk, where the system has a way to."""
    if os.name == "nt":  # a folder cannot be opened there
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:  # some network file systems know no fsync of folders
            raise
    finally:
        os.close(number)
