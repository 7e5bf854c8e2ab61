"""An append-only text file of complete lines, buffered in memory."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Generic, Self, TypeVar

from ..errors import RunFolderError

Item = TypeVar("Item")


class LineFile(Generic[Item]):
    """Buffers items and writes them, one line each, at least every `flush_s` seconds while items arrive.

    A crash loses at most the items since the last flush and may leave an incomplete last line, which the next writer
    removes. Items are encoded only when they are written, so they must not change after `append`.

    Args:
        path: the file, created if it does not exist.
        encode: converts an item to its line, without the newline.
        flush_s: longest time, in seconds, between two writes while items arrive.
    """

    def __init__(self, path: str | os.PathLike[str], encode: Callable[[Item], str], flush_s: float = 1.0) -> None:
        self.path = Path(path)
        self._encode = encode
        self._flush_s = flush_s
        self._items: list[Item] = []
        self._due = time.monotonic() + flush_s
        try:
            # Unbuffered, so that a forked data worker does not inherit a half-full buffer and write it a second time.
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115
            _drop_torn_line(self.path)
        except OSError as error:
            reason = error.strerror or str(error)
            raise RunFolderError(f"cannot write {self.path}: {reason}. Choose another folder") from error

    def append_item(self, item: Item) -> None:
        """Append one item; the next flush writes it."""
        self._items.append(item)
        if time.monotonic() >= self._due:
            self.flush()

    def flush(self) -> None:
        """Pass everything appended so far to the operating system."""
        self._due = time.monotonic() + self._flush_s
        if not self._items:
            return
        items, self._items = self._items, []
        text = "\n".join(map(self._encode, items)) + "\n"
        # Text that is not valid Unicode (file names need not be) becomes JSON's own \udcXX and reads back unchanged.
        left = memoryview(text.encode("utf-8", errors="backslashreplace"))
        end = self._file.seek(0, os.SEEK_END)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            self._items = items + self._items
            with suppress(OSError):
                self._file.truncate(end)  # no partial line: the next flush would append to it
            raise RunFolderError(f"cannot write {self.path}: {error.strerror or error}. Free disk space") from error

    def sync(self) -> int:
        """Flush everything appended so far to disk, safe from a power failure; return the file size in bytes."""
        self.flush()
        try:
            os.fsync(self._file.fileno())
            return self._file.seek(0, os.SEEK_END)
        except OSError as error:
            raise RunFolderError(f"cannot write {self.path}: {error.strerror or error}. Free disk space") from error

    def close(self) -> None:
        """Flush and close; may be called twice."""
        if not self._file.closed:
            try:
                self.flush()
            finally:
                self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.close()


def _drop_torn_line(path: Path) -> None:
    """Truncate the file after its last newline: a crash may have left an incomplete line."""
    with open(path, "r+b") as file:
        end = position = file.seek(0, os.SEEK_END)
        while position > 0:
            start = max(0, position - 65536)
            file.seek(start)
            newline = file.read(position - start).rfind(b"\n")
            if newline >= 0:
                position = start + newline + 1
                break
            position = start
        if position < end:
            file.truncate(position)
