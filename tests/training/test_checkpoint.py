"""Checkpoints: whole or not at all, and nothing in them is executed."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from rightbatch import RunFolderError
from rightbatch.training.checkpoint import FORMAT, load_checkpoint, save_checkpoint

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


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_file(tmp_path: Path, share: float) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, STATE)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(RunFolderError, match=r"cannot read the checkpoint .*damaged or not a checkpoint"):
        load_checkpoint(path)


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="cannot read the checkpoint"):
        load_checkpoint(tmp_path / "absent.pt")
    text = tmp_path / "text.pt"
    text.write_text("not a checkpoint")
    with pytest.raises(RunFolderError, match="damaged or not a checkpoint"):
        load_checkpoint(text)
    tensor = tmp_path / "tensor.pt"
    torch.save(torch.ones(3), tensor)
    with pytest.raises(RunFolderError, match="not a checkpoint"):
        load_checkpoint(tensor)


def test_another_format(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"format": FORMAT + 1}, path)
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
        path.write_bytes(pickle.dumps(state))
    else:
        torch.save(state, path)
    with pytest.raises(RunFolderError):
        load_checkpoint(path)
    assert not harm.exists()
