"""Files that are there whole or not at all."""

import os
from pathlib import Path
from typing import Any

import pytest

from rightbatch.record.atomic import write_atomic


def test_content_goes_to_the_disk_before_the_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noting_fsync(number: int) -> None:
        done.append("fsync " + Path(os.readlink(f"/proc/self/fd/{number}")).name)
        fsync(number)

    def noting_replace(old: Path, new: Path) -> None:
        done.append(f"{old.name} -> {new.name}")
        replace(old, new)

    if not Path("/proc/self/fd").exists():
        pytest.skip("tells files apart by /proc")
    path, previous = tmp_path / "a", tmp_path / "b"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(os, "replace", noting_replace)
    write_atomic(path, lambda file: file.write(b"new"), previous)
    assert done == ["fsync a.new", "a -> b", "a.new -> a", f"fsync {tmp_path.name}"]
    assert (path.read_text(), previous.read_text()) == ("new", "old")


@pytest.mark.parametrize("point", ["write", "fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_anywhere_leaves_the_old_content_and_no_scraps(
    point: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def fail(*_: Any) -> None:
        raise error

    if point != "write":
        monkeypatch.setattr(os, point, fail)
    with pytest.raises(type(error)):
        write_atomic(path, fail if point == "write" else lambda file: file.write(b"new"))
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a", "old")]


def test_a_file_system_without_fsync_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def refuse_folders(number: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{number}"):
            raise OSError(22, "Invalid argument")
        fsync(number)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    write_atomic(tmp_path / "a", lambda file: file.write(b"new"))
    assert (tmp_path / "a").read_text() == "new"
