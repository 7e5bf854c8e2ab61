"""Checkpoints: plain types and tensors, written whole or not at all."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import RunFolderError

FORMAT = 1


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write `state` to a file beside `path`, bring it to the disk and rename it, so that a crash leaves the old one
    whole.

    Raises:
        RunFolderError: the file cannot be written.
    """
    unfinished = path.with_name(path.name + ".new")
    try:
        with open(unfinished, "wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except (OSError, RuntimeError) as error:
        raise RunFolderError(f"cannot write the checkpoint {path}: {error}") from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; nothing in it is executed.

    Raises:
        RunFolderError: it cannot be read, is damaged or of another format.
    """
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch.load raises many kinds for damaged files; all mean the same to the caller.
        raise RunFolderError(
            f"cannot read the checkpoint {path}: it is damaged or not a checkpoint ({error})"
        ) from error
    if not isinstance(state, dict):
        raise RunFolderError(f"{path} is not a checkpoint: it holds a {type(state).__name__}")
    if state.get("format") != FORMAT:
        raise RunFolderError(f"the checkpoint {path} has format {state.get('format')}, this version reads {FORMAT}")
    return state
