"""The run folder: the files that a run writes and that reports and trackers read."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ..errors import RunFolderError
from .atomic import write_atomic
from .events import decode_json, encode_json


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder of one run. Use `create` for a new run and `open` for an existing one.

    | file | content |
    |---|---|
    | config.json | the settings, written once when the run is created |
    | preprocessing.json | what is done to the data, if anything is; for predictions on other data |
    | events.jsonl | the event log (`events.py`) |
    | ledger.txt | the samples consumed (`ledger.py`) |
    | checkpoint.pt | the state to resume from |
    | checkpoint.previous.pt | the checkpoint before that, used if the latest is damaged |
    | checkpoint.damaged.pt | a damaged checkpoint, moved aside |
    | model.safetensors | the parameters of the returned model |
    | report.html | the report |
    | run.lock | the process that is writing, while there is one (`lock.py`) |
    """

    path: Path

    @classmethod
    def create(cls, path: str | os.PathLike[str], config: Mapping[str, Any]) -> Self:
        """Create the folder of a new run and write its settings.

        Raises:
            RunFolderError: the path is a file, is not writable, or already contains a run.
        """
        folder = cls(Path(path))
        folder.require_writable()
        if folder.holds_run:
            raise RunFolderError(
                f"{folder.path} already contains a run: resume it (resume=True, --resume) or choose another folder"
            )
        _write_json(folder.config, config)
        return folder

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, writable: bool = False) -> Self:
        """Open the folder of an existing run.

        Args:
            path: the folder.
            writable: also require write access, to resume the run.

        Raises:
            RunFolderError: the folder contains no run, or `writable` is set and it is not writable.
        """
        folder = cls(Path(path))
        if not folder.holds_run:
            exists = folder.path.exists()
            what = "does not exist" if not exists else "contains no run" if folder.path.is_dir() else "is a file"
            raise RunFolderError(f"{folder.path} {what}: give the folder of a run, which contains config.json")
        if writable:
            folder.require_writable()
        return folder

    @property
    def holds_run(self) -> bool:
        """Whether the folder contains a run."""
        return any(file.exists() for file in (self.config, self.events, self.checkpoint, self.previous_checkpoint))

    @property
    def config(self) -> Path:
        """The settings of the run."""
        return self.path / "config.json"

    @property
    def preprocessing(self) -> Path:
        """What is done to the data before the model gets them."""
        return self.path / "preprocessing.json"

    @property
    def events(self) -> Path:
        """The event log."""
        return self.path / "events.jsonl"

    @property
    def ledger(self) -> Path:
        """The ledger."""
        return self.path / "ledger.txt"

    @property
    def checkpoint(self) -> Path:
        """The state to resume from."""
        return self.path / "checkpoint.pt"

    @property
    def previous_checkpoint(self) -> Path:
        """The checkpoint before the latest."""
        return self.path / "checkpoint.previous.pt"

    @property
    def damaged_checkpoint(self) -> Path:
        """A damaged checkpoint, moved aside."""
        return self.path / "checkpoint.damaged.pt"

    @property
    def model(self) -> Path:
        """The parameters of the returned model."""
        return self.path / "model.safetensors"

    @property
    def report(self) -> Path:
        """The report."""
        return self.path / "report.html"

    @property
    def lock(self) -> Path:
        """The lock file of the process that is writing."""
        return self.path / "run.lock"

    def read_config(self) -> dict[str, Any]:
        """The settings the run was created with; empty if the file is missing.

        Raises:
            RunFolderError: the file is damaged.
        """
        return _read_json(self.config)

    def write_preprocessing(self, content: Mapping[str, Any]) -> None:
        """Store what is done to the data.

        Raises:
            RunFolderError: the file cannot be written.
        """
        _write_json(self.preprocessing, content)

    def read_preprocessing(self) -> dict[str, Any]:
        """What is done to the data; empty if nothing is.

        Raises:
            RunFolderError: the file is damaged.
        """
        return _read_json(self.preprocessing)

    def require_writable(self) -> None:
        """Create the folder and write a test file: permission bits alone are not reliable for every user.

        Raises:
            RunFolderError: the folder cannot be created or written.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"{self.path} is a file: give a folder")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path, prefix=".writable-") as probe:
                probe.write(b"rightbatch")
        except OSError as error:
            raise RunFolderError(
                f"cannot write the run folder {self.path} ({error.strerror or error}): choose another folder"
            ) from error


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = (encode_json(dict(content)) + "\n").encode("utf-8", errors="backslashreplace")
    try:
        write_atomic(path, lambda file: file.write(text))
    except OSError as error:
        raise RunFolderError(f"cannot write {path}: {error.strerror or error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return dict(decode_json(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise RunFolderError(f"cannot read {path}: {error}") from error
