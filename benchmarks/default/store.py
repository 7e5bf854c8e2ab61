"""The runs that were made, one JSON file each, so that what is there is not run again."""

import hashlib
import json
import os
from dataclasses import asdict
from functools import cache
from pathlib import Path

import torch

from .clock import Horizon, Trajectory
from .problem import Problem, problem

DEFAULT_FOLDER = Path(__file__).resolve().parents[2] / "build" / "arena"
VARIABLE = "RIGHTBATCH_ARENA"


class Store:
    """A folder of runs: `<problem>/<contestant>-<horizon>-<seed>.json`.

    A run is taken from it only if the problem and the contestant are the same as when it was made.

    Args:
        folder: default: what the variable RIGHTBATCH_ARENA says, or build/arena.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Path(os.environ.get(VARIABLE, DEFAULT_FOLDER))

    def path(self, name: str, contestant: str, seed: int, horizon: Horizon) -> Path:
        """Where a run is stored."""
        budget = f"{horizon.epochs:g}epochs" if horizon.units is None else f"{horizon.units:.0f}units"
        return self.folder / name / f"{contestant}-{budget}-{seed}.json"

    def load(self, name: str, contestant: str, version: str, seed: int, horizon: Horizon) -> Trajectory | None:
        """A run, if it is there and still holds."""
        path = self.path(name, contestant, seed, horizon)
        if not path.exists():
            return None
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.pop("problem") != fingerprint(name) or found.pop("version") != version:
            return None
        found["checks"] = [tuple(check) for check in found["checks"]]
        return Trajectory(**found)

    def save(
        self, name: str, contestant: str, version: str, seed: int, horizon: Horizon, trajectory: Trajectory
    ) -> None:
        """Store a run; other processes see all of it or nothing."""
        path = self.path(name, contestant, seed, horizon)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"problem": fingerprint(name), "version": version, **asdict(trajectory)}
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(content), encoding="utf-8")
        draft.replace(path)


@cache
def fingerprint(name: str) -> str:
    """A digest of what a problem is: budget, clock, data and the initial parameters of seed 0."""
    of: Problem = problem(name)
    found = hashlib.sha256(f"{of.epochs} {of.half_performance} {of.loss.__name__}".encode())
    with torch.no_grad():
        for tensor in (*(t for pair in of.data for t in pair), *of.make_model(0).state_dict().values()):
            found.update(f"{tuple(tensor.shape)} {float(tensor.double().sum()):.6g}".encode())
    return found.hexdigest()[:16]
