"""When checkpoints are due, by a clock that stands still unless it is moved."""

import itertools
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rightbatch import fit
from rightbatch.data import blobs
from rightbatch.fitting import checkpoint_schedule, training
from rightbatch.fitting.checkpoint import load_checkpoint
from rightbatch.fitting.checkpoint_schedule import SHARE, CheckpointSchedule


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def saved(schedule: CheckpointSchedule, clock: Clock, took_s: float) -> None:
    started_s = schedule.now()
    clock.now_s += took_s
    schedule.saved(started_s)


def test_the_first_evaluation_is_saved_at_once() -> None:
    schedule = CheckpointSchedule(600.0, Clock())
    assert not schedule.due
    schedule.ask()
    assert schedule.due


def test_later_ones_as_soon_as_their_share_allows() -> None:
    clock = Clock()
    schedule = CheckpointSchedule(600.0, clock)
    schedule.ask()
    saved(schedule, clock, 2.0)
    schedule.ask()
    clock.now_s += 2.0 * (1 / SHARE - 1) - 0.5
    assert not schedule.due
    clock.now_s += 1.0
    assert schedule.due, "without a further evaluation"
    saved(schedule, clock, 0.01)
    clock.now_s += 500
    assert not schedule.due, "nothing was evaluated"


def test_the_longest_interval_holds_whatever_they_take() -> None:
    clock = Clock()
    schedule = CheckpointSchedule(60.0, clock)
    clock.now_s += 59.9
    assert not schedule.due
    clock.now_s += 0.2
    assert schedule.due
    saved(schedule, clock, 30.0)
    clock.now_s += 60.0
    assert schedule.due


@pytest.mark.parametrize(("took_s", "every_s"), [(0.005, 0.007), (0.5, 0.1), (3.0, 400.0)])
def test_the_share_of_a_long_run(took_s: float, every_s: float) -> None:
    """Evaluations every few milliseconds, or minutes: at most the share, and none waits longer than it must."""
    clock = Clock()
    schedule = CheckpointSchedule(600.0, clock)
    spent = waited = 0.0
    asked_s: float | None = None
    for _ in range(2000):
        clock.now_s += every_s
        schedule.ask()
        asked_s = clock.now_s if asked_s is None else asked_s
        if schedule.due:
            waited = max(waited, clock.now_s - asked_s)
            saved(schedule, clock, took_s)
            spent, asked_s = spent + took_s, None
    assert spent <= SHARE * (clock.now_s - 100) + took_s
    assert waited <= took_s / SHARE + every_s


def run(folder: Path, **settings: Any) -> Any:
    torch.manual_seed(0)
    train = blobs(260)
    return fit(
        nn.Linear(2, 3), train, valid=0.2, batch_size=20, lr=0.1, progress=False, run_dir=folder, epochs=20, **settings
    )  # fmt: skip


def test_there_is_one_at_the_end(no_report: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of twenty evaluations in no time, the first and the last are saved, with the best iterate."""
    monkeypatch.setattr(checkpoint_schedule, "SHARE", 1e-9)
    count = itertools.count()
    save = training.save_checkpoint
    monkeypatch.setattr(training, "save_checkpoint", lambda *args: (next(count), save(*args)))
    done = run(tmp_path)
    assert next(count) == 2
    state = load_checkpoint(tmp_path / "checkpoint.pt")
    assert state["auto"]["run"]["steps"] == done.history[-1]["step"]
    assert state["best"]["row"] == done.best


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("share", [1e-9, 1.0])
def test_a_kill_loses_no_best_iterate(
    share: float, no_report: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run killed long after its last checkpoint finds the same best iterate when it is resumed."""
    monkeypatch.setattr(checkpoint_schedule, "SHARE", share)
    straight = run(tmp_path / "straight")
    child = os.fork()
    if child == 0:
        calls = itertools.count()
        evaluate = training.evaluate

        def killing(*args: Any) -> Any:
            if next(calls) == 15:
                os.kill(os.getpid(), 9)
            return evaluate(*args)

        training.evaluate = killing  # type: ignore[assignment]
        run(tmp_path / "killed")
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9
    resumed = run(tmp_path / "killed", resume=True)
    times = ("seconds",)
    assert {k: v for k, v in resumed.best.items() if k not in times} == {
        k: v for k, v in straight.best.items() if k not in times
    }
    assert all(torch.equal(a, b) for a, b in zip(resumed.model.parameters(), straight.model.parameters(), strict=True))
