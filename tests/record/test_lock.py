"""One writer a run folder, and no lock that outlives its process."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rightbatch.errors import RunFolderError
from rightbatch.record import RunLock, lock

HOLD = """
import sys, time
from pathlib import Path
from rightbatch.record import RunLock
held = RunLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_one_is_refused_by_name_until_the_first_is_released(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    first = RunLock(path)
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    with pytest.raises(RunFolderError, match=rf"{holder} is writing.*choose another folder"):
        RunLock(path)
    assert path.exists()
    first.release()
    first.release()
    assert not path.exists()
    RunLock(path).release()


def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(RunFolderError, match=f"process {other.pid} on"):
            RunLock(path)
        other.send_signal(signal.SIGKILL)
    assert path.exists(), "the file stays, the lock does not"
    mine = RunLock(path)
    assert json.loads(path.read_text())["pid"] == os.getpid()
    mine.release()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_does_not_hold_on_to_it(tmp_path: Path) -> None:
    """A data worker that outlives a killed run for some seconds must not keep the next one out."""
    path = tmp_path / "run.lock"
    first = RunLock(path)
    reader, writer = os.pipe()
    begun, begin = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.write(begin, b".")
        os.read(reader, 1)  # until the parent closes its end
        os._exit(0)
    os.close(reader)
    os.read(begun, 1)
    os.close(first._file)  # as when the process ends: nothing is removed
    lock._held.discard(first._file)
    try:
        RunLock(path).release()
    finally:
        os.close(writer)
        os.waitpid(child, 0)


def test_a_file_removed_while_it_was_opened_is_not_taken_for_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.lock"
    first = RunLock(path)
    flock = lock.fcntl.flock

    def release_meanwhile(file: int, operation: int) -> None:
        first.release()
        flock(file, operation)

    monkeypatch.setattr(lock.fcntl, "flock", release_meanwhile)
    second = RunLock(path)
    assert path.exists() and os.fstat(second._file).st_ino == path.stat().st_ino
    second.release()


def without_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)


@pytest.mark.parametrize("has_fcntl", [True, False])
def test_without_locks_of_the_file_system_the_process_named_decides(
    has_fcntl: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_flock(monkeypatch) if has_fcntl else monkeypatch.setattr(lock, "fcntl", None)
    path = tmp_path / "run.lock"
    here = socket.gethostname()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        path.write_text(json.dumps({"pid": other.pid, "host": here}))
        with pytest.raises(RunFolderError, match=f"process {other.pid} on {here}"):
            RunLock(path)
        other.kill()
    RunLock(path).release()  # it is no more
    for pid, host, taken in ((other.pid, "another-machine", True), (os.getpid(), here, False), (1, here, True)):
        path.write_text(json.dumps({"pid": pid, "host": host}))
        if taken:
            with pytest.raises(RunFolderError, match=rf"process {pid} on {host}.*remove run.lock"):
                RunLock(path)
        else:
            RunLock(path).release()
    path.write_text("torn{")
    RunLock(path).release()


def test_a_lock_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"cannot lock .*run.lock"):
        RunLock(tmp_path / "absent" / "run.lock")
