"""Checkpoints: plain types and tensors with a checksum, written atomically, with the previous one as a backup."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import DamagedFileError, RunFolderError
from ..record import RunFolder
from ..record.checksum import open_verified, write_checksummed

FORMAT = 4


def save_checkpoint(path: Path, state: Mapping[str, Any], previous: Path | None = None) -> None:
    """Write `state`; a crash at any moment leaves this checkpoint or the last one whole, under either of two names.

    Args:
        path: of the checkpoint.
        state: plain types and tensors.
        previous: where the checkpoint that `path` holds now is kept.

    Raises:
        RunFolderError: the file cannot be written.
    """
    try:
        write_checksummed(path, lambda file: torch.save({"format": FORMAT, **state}, file), previous)
    except (OSError, RuntimeError) as error:
        raise RunFolderError(f"cannot write the checkpoint {path}: {error}; the last one is whole") from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, once all of it agrees with its digest; nothing in it is executed.

    Raises:
        DamagedFileError: it is cut short or altered.
        RunFolderError: it cannot be read, is no checkpoint or of another format.
    """
    with open_verified(path) as file:
        try:
            state: Any = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:
            # torch.load raises many kinds; all mean the same to the caller.
            raise RunFolderError(f"cannot read the checkpoint {path}: it is not a checkpoint ({error})") from error
    if not isinstance(state, dict):
        raise RunFolderError(f"{path} is not a checkpoint: it holds a {type(state).__name__}")
    if state.get("format") != FORMAT:
        raise RunFolderError(f"the checkpoint {path} has format {state.get('format')}, this version reads {FORMAT}")
    return state


@dataclass(frozen=True, slots=True)
class Recovered:
    """The latest whole checkpoint of a run.

    Args:
        state: what was saved.
        warning: why it is not the one saved last; empty if it is.
    """

    state: dict[str, Any]
    warning: str = ""


def recover(folder: RunFolder) -> Recovered | None:
    """Load the latest checkpoint of a run that is whole; None if it has none yet.

    Raises:
        DamagedFileError: there are checkpoints, but none is whole.
        RunFolderError: one that is whole cannot be used.
    """
    latest, previous = folder.checkpoint, folder.previous_checkpoint
    if not latest.exists() and not previous.exists():
        return None
    try:
        if latest.exists():
            return Recovered(load_checkpoint(latest))
        reason = f"{latest.name} is missing"
    except DamagedFileError as error:
        reason = str(error)
    try:
        state = load_checkpoint(previous)
    except RunFolderError as error:
        raise DamagedFileError(
            f"{reason}, and the previous checkpoint is unusable too ({error}). Restore one of them from a copy, "
            "or remove both to start again"
        ) from error
    step = state["auto"]["run"]["steps"]
    return Recovered(state, f"{reason}; resuming from {previous.name}, step {step}")


def set_aside_damaged(folder: RunFolder) -> None:
    """Rename a damaged latest checkpoint, so that the next one saved does not take the place of the whole one.

    Raises:
        RunFolderError: it cannot be renamed.
    """
    try:
        if folder.checkpoint.exists():
            folder.checkpoint.replace(folder.damaged_checkpoint)
    except OSError as error:
        raise RunFolderError(f"cannot rename {folder.checkpoint}: {error.strerror or error}") from error
