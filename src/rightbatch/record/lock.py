"""One writer a run folder: a lock that ends with its process, however that ends.

The lock is the operating system's (`flock` on `run.lock`), so that it is gone the moment its process is, even one that
was killed: nothing stale is left to judge, and a process number used again, as in containers, misleads nobody. The
file only says who holds it. `flock` also works over NFS (Linux) and SMB, and tells two runs of one process apart.

Where the file system refuses such locks, and on systems without `flock`, the file itself is the lock: it is taken over
if it names a process of this machine that is no more; one that names another machine is believed.
"""

import errno
import json
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import RunFolderError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_REFUSED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
_held: set[int] = set()


class RunLock:
    """The right to write to a run folder, taken when made.

    Args:
        path: the lock file, created; removed again by `release`.

    Raises:
        RunFolderError: another run holds it, or the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = -1
        try:
            while self._file < 0:
                self._file = self._take()
        except RunFolderError:
            raise
        except OSError as error:
            raise RunFolderError(f"cannot lock {path}: {error.strerror or error}; choose another folder") from error

    def _take(self) -> int:
        """The open lock file; negative if its holder removed it meanwhile."""
        file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not _lock(file):
                holder = _read(file)
                if holder and not _gone(holder):
                    raise self._taken(holder)
            there = os.stat(self.path)
            mine = os.fstat(file)
            if (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino):
                raise FileNotFoundError
            os.ftruncate(file, 0)
            os.lseek(file, 0, os.SEEK_SET)
            os.write(file, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        except BlockingIOError:
            holder = _read(file)
            os.close(file)
            raise self._taken(holder) from None
        except FileNotFoundError:
            os.close(file)
            return -1
        except BaseException:
            os.close(file)
            raise
        _held.add(file)
        return file

    def _taken(self, holder: dict[str, Any]) -> RunFolderError:
        who = f"process {holder['pid']} on {holder['host']}" if holder else "another process"
        return RunFolderError(
            f"the run folder {self.path.parent} is being written by {who}: wait for it or end it, or choose another "
            f"folder (if there is no such process, remove {self.path.name})"
        )

    def release(self) -> None:
        """Give the right back; twice is allowed."""
        if self._file < 0:
            return
        file, self._file = self._file, -1
        _held.discard(file)
        with suppress(OSError):
            self.path.unlink()  # before the lock goes, so that nobody who gets it loses the file
        os.close(file)
        if os.name == "nt":  # where an open file cannot be removed
            with suppress(OSError):
                self.path.unlink()


def _lock(file: int) -> bool:
    """Take the system's lock; False where it knows none.

    Raises:
        BlockingIOError: another holds it.
    """
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno in _REFUSED:
            return False
        raise
    return True


def _read(file: int) -> dict[str, Any]:
    """Who holds the lock; empty if the file does not say."""
    try:
        os.lseek(file, 0, os.SEEK_SET)
        holder = json.loads(os.read(file, 4096))
        return {"pid": int(holder["pid"]), "host": str(holder["host"])}
    except (ValueError, KeyError, TypeError):
        return {}


def _gone(holder: dict[str, Any]) -> bool:
    """Whether it is certain that the holder is no more."""
    if holder["host"] != socket.gethostname() or os.name == "nt":
        return False  # a signal of number 0, the way to ask elsewhere, ends the process there
    if holder["pid"] == os.getpid():
        return True  # of an earlier process with this number
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _forget() -> None:
    """In a forked child: the lock is the parent's, and must not outlive it through a data worker."""
    for file in _held:
        os.close(file)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
