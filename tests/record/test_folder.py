"""The run folder."""

import json
import math
from pathlib import Path

import pytest

from rightbatch.errors import RunFolderError
from rightbatch.record import RunFolder


def test_create_then_open_and_read_the_settings(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "runs" / "first", {"seed": 3, "target": math.inf, "model": "mlp"})
    assert folder.path == tmp_path / "runs" / "first"
    assert sorted(file.name for file in folder.path.iterdir()) == ["config.json"]
    assert json.loads(folder.config.read_text()) == {"seed": 3, "target": "Infinity", "model": "mlp"}
    opened = RunFolder.open(str(folder.path), writable=True)
    assert opened == folder
    assert opened.read_config() == {"seed": 3, "target": math.inf, "model": "mlp"}


def test_its_files(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    files = (folder.config, folder.events, folder.ledger, folder.checkpoint, folder.report, folder.model)
    names = ["config.json", "events.jsonl", "ledger.txt", "checkpoint.pt", "report.html", "model.safetensors"]
    assert [file.relative_to(tmp_path).as_posix() for file in files] == names


@pytest.mark.parametrize("name", ["config.json", "events.jsonl", "checkpoint.pt", "checkpoint.previous.pt"])
def test_a_folder_with_a_run_is_not_taken(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("kept")
    with pytest.raises(RunFolderError, match="already contains a run: resume it"):
        RunFolder.create(tmp_path, {})
    assert (tmp_path / name).read_text() == "kept"


def test_a_folder_with_other_files_may_be_used(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    RunFolder.create(tmp_path, {})
    assert (tmp_path / "notes.txt").exists()


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(RunFolderError, match="run is a file"):
        RunFolder.create(tmp_path / "run", {})
    with pytest.raises(RunFolderError, match="cannot write"):
        RunFolder.create(tmp_path / "run" / "inside", {})
    with pytest.raises(RunFolderError, match="run is a file"):
        RunFolder.open(tmp_path / "run")


def test_a_folder_that_refuses_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated, since permission bits do not stop every user."""

    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("rightbatch.record.folder.tempfile.TemporaryFile", refuse)
    with pytest.raises(RunFolderError, match=r"cannot write .*\(Permission denied\): choose another folder"):
        RunFolder.create(tmp_path / "run", {})
    assert list((tmp_path / "run").iterdir()) == []
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(RunFolderError, match="cannot write"):
        RunFolder.open(tmp_path / "run", writable=True)
    RunFolder.open(tmp_path / "run")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that refuses new folders")
def test_a_file_system_that_refuses(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="cannot write"):
        RunFolder.create("/proc/rightbatch-run", {})


def test_opening_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="does not exist"):
        RunFolder.open(tmp_path / "absent")
    with pytest.raises(RunFolderError, match="contains no run"):
        RunFolder.open(tmp_path)


def test_damaged_settings_are_said(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"cannot read .*config\.json"):
        RunFolder.open(tmp_path).read_config()
