"""From events to columns; what a resume makes void is left out."""

import math
import os
import subprocess
import sys
from pathlib import Path

from rightbatch.record import EventLog, counted_events, read_history


def step(log: EventLog, number: int, loss: float, noise: float | None = None) -> None:
    log.append("step", step=number, samples=number * 8, seconds=number / 10, train_loss=loss, noise_scale=noise)


def test_columns_and_lists(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl") as log:
        log.append("start", model="mlp", seed=0)
        step(log, 1, 0.5)
        step(log, 2, 0.4, 120.0)
        log.append("evaluation", step=2, valid_loss=0.45)
        log.append("invented-later", x=1)
        log.append("stop", reason="the budget is spent", step=2)
    history = read_history(tmp_path / "events.jsonl")
    assert list(history.steps["samples"]) == [8, 16]
    assert math.isnan(history.steps["noise_scale"][0]) and history.steps["noise_scale"][1] == 120.0
    assert all(math.isnan(value) for value in history.steps["gradient_norm"])
    assert history.start["model"] == "mlp"
    assert history.stop["reason"] == "the budget is spent"
    assert [event["valid_loss"] for event in history.evaluations] == [0.45]


def test_a_resume_replaces_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl") as log:
        log.append("start", model="mlp")
        for number in range(1, 6):
            step(log, number, 1.0)
        log.append("decision", step=3, what="batch_size", old=8, new=16)
        log.append("decision", step=5, what="batch_size", old=16, new=32)
        log.append("stop", reason="interrupted", step=5)
        log.append("start", model="again")
        log.append("resume", step=3)
        for number in range(4, 8):
            step(log, number, 2.0)
    history = read_history(tmp_path / "events.jsonl")
    assert list(history.steps["step"]) == [1, 2, 3, 4, 5, 6, 7]
    assert list(history.steps["train_loss"]) == [1.0] * 3 + [2.0] * 4
    assert [event["new"] for event in history.decisions] == [16]
    assert not history.stop and len(history.resumes) == 1
    assert history.start["model"] == "mlp"


def test_after_two_resumes_every_step_counts_once(tmp_path: Path) -> None:
    """Run to 6, back to 3, on to 5, back to 4, on to 6."""
    with EventLog(tmp_path / "events.jsonl") as log:
        for branch, (first, last) in enumerate([(1, 6), (4, 5), (5, 6)]):
            if branch:
                log.append("resume", step=first - 1)
            for number in range(first, last + 1):
                step(log, number, float(branch))
            log.append("stop", reason="interrupted", step=last)
    events = counted_events(tmp_path / "events.jsonl")
    steps = [(event["step"], event["train_loss"]) for event in events if event["kind"] == "step"]
    assert steps == [(1, 0.0), (2, 0.0), (3, 0.0), (4, 1.0), (5, 2.0), (6, 2.0)]
    assert sum(event["kind"] == "stop" for event in events) == 1
    columns = read_history(tmp_path / "events.jsonl").steps
    assert steps == list(zip(columns["step"], columns["train_loss"], strict=True))


def test_nothing_happened(tmp_path: Path) -> None:
    EventLog(tmp_path / "events.jsonl").close()
    history = read_history(tmp_path / "events.jsonl")
    assert not history.start and not history.steps["step"]


def test_neither_torch_nor_numpy_nor_matplotlib_is_imported() -> None:
    code = (
        "import sys, rightbatch.record, rightbatch.report;"
        "print([name for name in ('torch', 'numpy', 'matplotlib', 'rich') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "[]\n"


def test_a_run_begun_anew_has_one_beginning(tmp_path: Path) -> None:
    """Killed before its first checkpoint: what was decided before its first step is told once."""
    with EventLog(tmp_path / "events.jsonl") as log:
        for branch in range(2):
            if branch:
                log.append("resume", step=0, log_bytes=0)
            log.append("start", model=f"mlp {branch}")
            log.append("decision", step=0, what="batch_size", old=None, new=8)
            step(log, 1, float(branch))
    history = read_history(tmp_path / "events.jsonl")
    assert history.start["model"] == "mlp 1" and list(history.steps["train_loss"]) == [1.0]
    assert len(history.decisions) == len(history.resumes) == 1
    counted = [event["kind"] for event in counted_events(tmp_path / "events.jsonl")]
    assert counted == ["resume", "start", "decision", "step"]


def test_the_position_in_the_log_tells_what_a_checkpoint_knew(tmp_path: Path) -> None:
    """A decision for the step after it bears the same step number as one before it."""
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        step(log, 1, 0.0)
        log.append("decision", step=1, what="batch_size", old=8, new=16)
        saved = log.sync()
        log.append("decision", step=1, what="lr", old=0.1, new=0.2)
        step(log, 2, 0.0)
        log.append("resume", step=1, log_bytes=saved)
        log.append("decision", step=1, what="lr", old=0.1, new=0.3)
        step(log, 2, 1.0)
        log.append("resume", step=1, log_bytes=saved)
        log.append("decision", step=1, what="lr", old=0.1, new=0.4)
        step(log, 2, 2.0)
        log.append("stop", reason="done", step=2)
    history = read_history(path)
    assert [event["new"] for event in history.decisions] == [16, 0.4]
    assert list(history.steps["train_loss"]) == [0.0, 2.0]
    assert len(history.resumes) == 2 and history.stop["reason"] == "done"
    kinds = [event["kind"] for event in counted_events(path)]
    assert kinds == ["step", "decision", "resume", "resume", "decision", "step", "stop"]
