"""The run folder: where a run is written and where everything that looks at a run reads."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ..errors import RunFolderError
from .atomic import write_whole
from .events import decode_json, encode_json


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A folder that holds one run. Use `create` for a new run and `open` for one that exists.

    | file | holds |
    |---|---|
    | config.json | the settings, written once |
    | events.jsonl | what happened (`events.py`) |
    | ledger.txt | which samples were consumed (`ledger.py`) |
    | checkpoint.pt | the state to resume from |
    | checkpoint.previous.pt | the one before it, used if it is damaged |
    | checkpoint.damaged.pt | one that was found damaged, set aside |
    | model.safetensors | the parameters returned |
    | report.html | the page for people |
    | run.lock | who is writing, as long as somebody is (`lock.py`) |
    """

    path: Path

    @classmethod
    def create(cls, path: str | os.PathLike[str], config: Mapping[str, Any]) -> Self:
        """Make the folder of a new run and write its settings.

        Raises:
            RunFolderError: the path is a file, cannot be written, or already holds a run.
        """
        folder = cls(Path(path))
        folder.require_writable()
        if folder.holds_run:
            raise RunFolderError(
                f"{folder.path} already holds a run; resume it (resume=True, --resume) or choose another folder"
            )
        text = (encode_json(dict(config)) + "\n").encode("utf-8", errors="backslashreplace")
        try:
            write_whole(folder.config, lambda file: file.write(text))
        except OSError as error:
            raise RunFolderError(f"cannot write {folder.config}: {error.strerror or error}") from error
        return folder

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, writable: bool = False) -> Self:
        """The folder of an existing run.

        Args:
            path: the folder.
            writable: the run is to be continued, so writing must work too.

        Raises:
            RunFolderError: there is no run in it, or it should be writable and is not.
        """
        folder = cls(Path(path))
        if not folder.holds_run:
            exists = folder.path.exists()
            what = "does not exist" if not exists else "holds no run" if folder.path.is_dir() else "is a file"
            raise RunFolderError(f"{folder.path} {what}; give the folder of a run, the one with config.json in it")
        if writable:
            folder.require_writable()
        return folder

    @property
    def holds_run(self) -> bool:
        """Whether a run has been written here."""
        return any(file.exists() for file in (self.config, self.events, self.checkpoint, self.previous_checkpoint))

    @property
    def config(self) -> Path:
        """The settings of the run."""
        return self.path / "config.json"

    @property
    def events(self) -> Path:
        """The event log."""
        return self.path / "events.jsonl"

    @property
    def ledger(self) -> Path:
        """The intervals of samples that were consumed."""
        return self.path / "ledger.txt"

    @property
    def checkpoint(self) -> Path:
        """The state to resume from."""
        return self.path / "checkpoint.pt"

    @property
    def previous_checkpoint(self) -> Path:
        """The state before that."""
        return self.path / "checkpoint.previous.pt"

    @property
    def damaged_checkpoint(self) -> Path:
        """A state that was found damaged."""
        return self.path / "checkpoint.damaged.pt"

    @property
    def model(self) -> Path:
        """The parameters returned by the run."""
        return self.path / "model.safetensors"

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.path / "report.html"

    @property
    def lock(self) -> Path:
        """Who is writing."""
        return self.path / "run.lock"

    def read_config(self) -> dict[str, Any]:
        """The settings the run was created with; empty if the file is missing.

        Raises:
            RunFolderError: the file is damaged.
        """
        if not self.config.exists():
            return {}
        try:
            config = decode_json(self.config.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunFolderError(f"cannot read {self.config}: {error}") from error
        return dict(config)

    def require_writable(self) -> None:
        """Make the folder and really write a file into it: permission bits do not tell for every user.

        Raises:
            RunFolderError: it cannot be made or written.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"{self.path} is a file; a run needs a folder, choose another path")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path, prefix=".writable-") as probe:
                probe.write(b"rightbatch")
        except OSError as error:
            raise RunFolderError(
                f"the run folder {self.path} cannot be written ({error.strerror or error}); choose another folder"
            ) from error
