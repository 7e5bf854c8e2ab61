"""The lock of a run folder: at most one process writes to it.

The lock is the operating system's (`flock` on `run.lock`), which releases it when the process ends, even if it is
killed: there are no stale locks, and reused process numbers, as in containers, do no harm. The file only names the
holder. `flock` also works over NFS (Linux) and SMB, and separates two runs of one process.

Where `flock` is not available, the file itself is the lock: it is taken over if it names a process of this machine that
no longer exists, and honoured if it names another machine.
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

_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
_held: set[int] = set()


class RunLock:
    """The exclusive right to write to a run folder, acquired on construction.

    Args:
        path: the lock file; `release` removes it.

    Raises:
        RunFolderError: another run holds the lock, or the file cannot be written.
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
            raise RunFolderError(f"cannot lock {path}: {error.strerror or error}. Choose another folder") from error

    def _take(self) -> int:
        """The open lock file; negative if its holder has just removed it."""
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
            f"{who} is writing to the run folder {self.path.parent}: wait for it, stop it, or choose another folder "
            f"(if that process no longer exists, remove {self.path.name})"
        )

    def release(self) -> None:
        """Release the lock; may be called twice."""
        if self._file < 0:
            return
        file, self._file = self._file, -1
        _held.discard(file)
        with suppress(OSError):
            self.path.unlink()  # before the lock is released, so that the next holder keeps its file
        os.close(file)
        if os.name == "nt":  # Windows cannot remove an open file
            with suppress(OSError):
                self.path.unlink()


def _lock(file: int) -> bool:
    """Acquire the system's lock; False if it is not supported.

    Raises:
        BlockingIOError: another process holds it.
    """
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return False
        raise
    return True


def _read(file: int) -> dict[str, Any]:
    """The holder of the lock; empty if the file does not name one."""
    try:
        os.lseek(file, 0, os.SEEK_SET)
        holder = json.loads(os.read(file, 4096))
        return {"pid": int(holder["pid"]), "host": str(holder["host"])}
    except (ValueError, KeyError, TypeError):
        return {}


def _gone(holder: dict[str, Any]) -> bool:
    """Whether the holder certainly no longer exists."""
    if holder["host"] != socket.gethostname() or os.name == "nt":
        return False  # on Windows, signal 0 would end the process
    if holder["pid"] == os.getpid():
        return True  # left by an earlier process with this number
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _forget() -> None:
    """In a forked child: close the parent's lock, so that a data worker does not hold it after the parent ends."""
    for file in _held:
        os.close(file)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
