"""Checkpoints: whole or not at all, and nothing in them is executed."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from rightbatch.errors import DamagedFileError, RunFolderError
from rightbatch.fitting.checkpoint import (
    FORMAT,
    load_checkpoint,
    recover,
    save_checkpoint,
    set_aside_damaged,
)
from rightbatch.record import RunFolder
from rightbatch.record.checksum import write_checksummed

STATE: dict[str, Any] = {
    "weights": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2])},
    "numbers": [1, 2.5, None, "text", True],
    "nested": {"trace": ((1.0, 2.0), (3.0, float("inf")))},
    "empty": {},
}


def test_round_trip(tmp_path: Path, identical: Any) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, STATE)
    assert identical(load_checkpoint(path), {"format": FORMAT, **STATE})
    save_checkpoint(path, {"weights": {}})
    assert load_checkpoint(path) == {"format": FORMAT, "weights": {}}
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("unexpected pos 64 vs 0")])
def test_a_write_that_fails_leaves_the_old_one_whole(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"step": 1})

    def half_a_save(state: Any, file: Any) -> None:
        file.write(b"half of it")
        raise error

    monkeypatch.setattr(torch, "save", half_a_save)
    with pytest.raises(RunFolderError, match=r"cannot write the checkpoint .*checkpoint.pt"):
        save_checkpoint(path, {"step": 2})
    monkeypatch.undo()
    assert load_checkpoint(path)["step"] == 1
    save_checkpoint(path, {"step": 3})
    assert load_checkpoint(path)["step"] == 3


def test_killed_in_the_midst_of_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"step": 1})

    def killed(state: Any, file: Any) -> None:
        file.write(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, {"step": 2})
    assert load_checkpoint(path)["step"] == 1


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="cannot write the checkpoint"):
        save_checkpoint(tmp_path / "absent" / "checkpoint.pt", STATE)


def test_plain_torch_reads_it_too(tmp_path: Path, identical: Any) -> None:
    """The checksum line follows the content, where torch.load does not look."""
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, STATE)
    assert identical(torch.load(path, weights_only=True), {"format": FORMAT, **STATE})


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_file(tmp_path: Path, share: float) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, STATE)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DamagedFileError, match="is damaged"):
        load_checkpoint(path)


def test_any_altered_byte_is_noticed_where_torch_alone_is_silent(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, STATE)
    whole = path.read_bytes()
    silent = 0
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(DamagedFileError, match="is damaged"):
            load_checkpoint(path)
        try:
            torch.load(path, weights_only=True)
            silent += 1
        except Exception:
            pass
    assert silent > 0, "this is what the digest is for"


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"cannot read .*absent.pt: No such file"):
        load_checkpoint(tmp_path / "absent.pt")
    text = tmp_path / "text.pt"
    text.write_text("not a checkpoint")
    with pytest.raises(DamagedFileError, match="is damaged"):
        load_checkpoint(text)
    write_checksummed(text, lambda file: file.write(b"not a checkpoint"))
    with pytest.raises(RunFolderError, match=r"cannot read the checkpoint .*it is not a checkpoint"):
        load_checkpoint(text)
    write_checksummed(text, lambda file: torch.save(torch.ones(3), file))
    with pytest.raises(RunFolderError, match="is not a checkpoint: it holds a Tensor"):
        load_checkpoint(text)


def test_another_format(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    write_checksummed(path, lambda file: torch.save({"format": FORMAT + 1}, file))
    with pytest.raises(RunFolderError, match=f"has format {FORMAT + 1}, this version reads {FORMAT}"):
        load_checkpoint(path)


class Harmful:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("plain", [False, True])
def test_nothing_in_it_is_executed(tmp_path: Path, plain: bool) -> None:
    path, harm = tmp_path / "checkpoint.pt", tmp_path / "harm"
    state = {"format": FORMAT, "harmful": Harmful(harm)}
    if plain:
        write_checksummed(path, lambda file: file.write(pickle.dumps(state)))
    else:
        write_checksummed(path, lambda file: torch.save(state, file))
    with pytest.raises(RunFolderError):
        load_checkpoint(path)
    assert not harm.exists()


# The one before.


def counted(steps: int) -> dict[str, Any]:
    return {"auto": {"run": {"steps": steps}}}


def save(folder: RunFolder, steps: int) -> None:
    save_checkpoint(folder.checkpoint, counted(steps), folder.previous_checkpoint)


def steps_of(path: Path) -> int:
    return int(load_checkpoint(path)["auto"]["run"]["steps"])


def test_the_previous_one_is_kept(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert recover(folder) is None
    for steps in (1, 2, 3):
        save(folder, steps)
    assert (steps_of(folder.checkpoint), steps_of(folder.previous_checkpoint)) == (3, 2)
    found = recover(folder)
    assert found is not None and found.state["auto"]["run"]["steps"] == 3 and found.warning == ""


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_a_damaged_one_is_replaced_by_the_one_before(damage: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    save(folder, 1)
    save(folder, 2)
    whole = folder.checkpoint.read_bytes()
    if damage == "missing":
        folder.checkpoint.unlink()
    else:
        folder.checkpoint.write_bytes(whole[:-1] if damage == "truncated" else b"x" + whole[1:])
    found = recover(folder)
    assert found is not None and found.state["auto"]["run"]["steps"] == 1
    assert found.warning.startswith("checkpoint.pt is missing" if damage == "missing" else str(folder.checkpoint))
    assert found.warning.endswith("resuming from checkpoint.previous.pt, step 1")
    set_aside_damaged(folder)
    save(folder, 3)
    assert (steps_of(folder.checkpoint), steps_of(folder.previous_checkpoint)) == (3, 1), "the whole one stays"
    assert folder.damaged_checkpoint.exists() == (damage != "missing")


@pytest.mark.parametrize("previous", [None, b"", b"junk"])
def test_none_whole_is_an_error_that_says_what_to_do(previous: bytes | None, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.checkpoint.write_bytes(b"junk")
    if previous is not None:
        folder.previous_checkpoint.write_bytes(previous)
    with pytest.raises(DamagedFileError, match=r"checkpoint.pt is damaged.*Restore one.*or remove both to start again"):
        recover(folder)


def test_one_of_another_version_is_not_taken_for_damaged(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    save(folder, 1)
    save(folder, 2)
    write_checksummed(folder.checkpoint, lambda file: torch.save({"format": FORMAT + 1}, file))
    with pytest.raises(RunFolderError, match="this version reads"):
        recover(folder)
