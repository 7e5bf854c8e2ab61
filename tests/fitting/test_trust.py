"""What a run folder promises: kills, full disks, damage, two writers, clocks that go back."""

import errno
import itertools
import math
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rightbatch import InputError, RunFolderError, fit
from rightbatch.data import Source, blobs
from rightbatch.errors import DamagedFileError
from rightbatch.fitting import Run, checkpoint_schedule, recorder
from rightbatch.fitting.checkpoint import load_checkpoint
from rightbatch.record import RunFolder, RunLock, counted_events, lines, read_events, read_history, verify_ledger
from rightbatch.report.story import story

pytestmark = pytest.mark.usefixtures("no_report")

N = 120


@pytest.fixture(autouse=True)
def a_checkpoint_at_each_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever they take, so that a run of a few milliseconds has several."""
    monkeypatch.setattr(checkpoint_schedule, "SHARE", math.inf)


class Augmented(Source):
    """Adds noise from all three generators to the samples, as careless augmentations do."""

    def __init__(self) -> None:
        self.source = blobs(N)
        self.x_shape, self.x_dtype, self.y_shape = self.source.x_shape, self.source.x_dtype, self.source.y_shape
        self.y_dtype, self.y_range, self.notes = self.source.y_dtype, self.source.y_range, self.source.notes

    def __len__(self) -> int:
        return N

    def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        x, y = self.source.fetch(indices)
        return x + 0.1 * torch.randn(2) + 0.1 * random.gauss(0, 1) + 0.1 * float(np.random.randn()), y


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 3))


RULES: dict[str, tuple[Any, Any, Any, Any]] = {
    "SGD with momentum": (20, None, None, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
    "AdamW, sizes from noise": (
        "gradient-noise-scale(initial=8, max_size=40)",
        "noise-scaled(lr=0.05)",
        "auto(every=3)",
        torch.optim.AdamW,
    ),
    "averages": (16, "auto", None, None),
    "searches": ("big-batch(initial=8, kappa=0.1)", "armijo", None, None),
}


def quiet(name: str = "SGD with momentum", **settings: Any) -> Run:
    batch, step, noise, optimizer = RULES[name]
    valid = blobs(200).subset(torch.arange(N, 200))
    given = {"epochs": 2, "eval_every": 0.5, "progress": False, "optimizer": optimizer, "noise": noise, **settings}
    model = given.pop("model") if "model" in given else network()
    return fit(model, Augmented(), batch_size=batch, lr=step, valid=valid, **given)


def final(folder: Path) -> dict[str, Any]:
    """Everything the last checkpoint holds but times."""
    state = load_checkpoint(folder / "checkpoint.pt")
    auto = state["auto"]
    for part, name in (
        (state, "wall_s"),
        (state, "log_bytes"),
        (state["best"]["row"], "seconds"),
        (auto["run"], "seconds"),
        (auto, "timer"),
    ):
        part.pop(name)
    if auto["meter"] is not None:
        auto["meter"].pop("interval")
    return state


def told(folder: Path) -> list[dict[str, Any]]:
    """The events that count, in order, but times and the resumes themselves."""
    left_out = ("start", "stop", "resume", "change", "timing")
    return [
        {k: v for k, v in event.items() if k != "seconds"}
        for event in counted_events(folder / "events.jsonl")
        if event["kind"] not in left_out
    ]


def proved(folder: Path, epochs: int = 2) -> bool:
    report = verify_ledger(folder / "ledger.txt", N)
    return report.ok and report.complete_epochs == epochs


# All of the state.


@pytest.mark.parametrize("name", RULES)
def test_everything_is_as_if_nothing_had_happened(name: str, tmp_path: Path, identical: Any) -> None:
    """Model, optimizer, rules, trackers, data position, random numbers, averages, best iterate and event log."""
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    whole = quiet(name, run_dir=straight)
    calls = itertools.count()

    def loss(output: Tensor, target: Tensor) -> Tensor:
        if torch.is_grad_enabled() and next(calls) == len(whole.history) // 2 + 3:
            raise ValueError("broken off")
        return F.cross_entropy(output, target)

    with pytest.raises(ValueError, match="broken off"):
        quiet(name, run_dir=broken, loss=loss, checkpoint_every=1e-9)
    assert load_checkpoint(broken / "checkpoint.pt")["auto"]["run"]["steps"] > 1
    for generator in (torch.manual_seed, random.seed, np.random.seed):
        generator(99)
    again = quiet(name, run_dir=broken, resume=True)
    assert identical(dict(again.model.state_dict()), dict(whole.model.state_dict()))
    state = final(broken)
    assert state.keys() >= {"model", "auto", "best", "random", "next_evaluation"}
    assert state["auto"].keys() >= {"stream", "run", "decisions", "decide", "update", "meter", "limit"}
    assert state["auto"]["update"].keys() >= {"optimizer", "averaging", "guard", "reported_lr"}
    assert state["random"].keys() == {"torch", "python", "numpy"}
    assert identical(state, final(straight))
    assert told(broken) == told(straight)
    assert proved(broken)


def test_the_callers_generators_are_left_alone_and_matter_not() -> None:
    results = []
    for seed in (1, 2):
        model = network()
        for generator in (torch.manual_seed, random.seed, np.random.seed):
            generator(seed)
        before = (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist())
        results.append(quiet(model=model, epochs=1).model.state_dict()["0.weight"])
        assert (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()) == before
    assert torch.equal(*results)


# Kills.


class Moments:
    """Copies a run folder as another process would find it, before and after everything that is done to the disk.

    What a killed process has handed to the system stays, what it has not is lost: so a copy is what a kill -9 at that
    moment leaves. Writing is torn too: half of what is written is there.
    """

    def __init__(self, folder: Path, copies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.copies = folder, copies
        self.found: dict[bytes, Path] = {}
        for module, name in ((os, "fsync"), (os, "replace"), (Path, "unlink")):
            monkeypatch.setattr(module, name, self._around(getattr(module, name)))
        flush = lines.LineFile.flush

        def torn_flush(file: Any) -> None:
            self.take()
            before = file.path.stat().st_size
            flush(file)
            self.take()
            if (after := file.path.stat().st_size) > before:
                self.take(torn=(file.path.name, (before + after) // 2))

        monkeypatch.setattr(lines.LineFile, "flush", torn_flush)

    def _around(self, act: Any) -> Any:
        def acting(*arguments: Any, **settings: Any) -> None:
            self.take()
            for file in self.folder.glob("*.new"):
                self.take(torn=(file.name, file.stat().st_size // 2))
            act(*arguments, **settings)
            self.take()

        return acting

    def take(self, torn: tuple[str, int] | None = None) -> None:
        contents = {file.name: file.read_bytes() for file in self.folder.iterdir()}
        if torn is not None:
            contents[torn[0]] = contents[torn[0]][: torn[1]]
        copy = self.copies / str(len(self.found))
        if (key := repr(sorted(contents.items())).encode()) in self.found:
            return
        self.found[key] = copy
        copy.mkdir(parents=True)
        for name, content in contents.items():
            (copy / name).write_bytes(content)


def after_kill(folder: Path) -> AbstractContextManager[Any]:
    """Between the two renames there is only the checkpoint before, which is told."""
    names = {file.name for file in folder.iterdir()}
    between = "checkpoint.previous.pt" in names and "checkpoint.pt" not in names
    return pytest.warns(UserWarning, match="checkpoint.pt is missing") if between else nullcontext()


def test_a_kill_at_any_moment_costs_nothing_but_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, identical: Any
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    settings: dict[str, Any] = {"epochs": 1, "eval_every": 0.4}
    with monkeypatch.context() as patched:
        moments = Moments(folder, tmp_path / "killed", patched)
        whole = quiet(run_dir=folder, **settings)
    expected, events = final(folder), told(folder)
    scraps = set()
    for copy in moments.found.values():
        names = {file.name for file in copy.iterdir()}
        scraps |= names
        with after_kill(copy):
            again = quiet(run_dir=copy, resume=True, **settings)
        assert identical(dict(again.model.state_dict()), dict(whole.model.state_dict())), copy
        assert identical(final(copy), expected) and told(copy) == events and proved(copy, 1), copy
        assert read_history(copy / "events.jsonl").stop["reason"] == "1 epoch is done"
        names = {file.name for file in copy.iterdir()}
        assert {"checkpoint.pt", "model.safetensors"} <= names and "run.lock" not in names
        assert not any(name.endswith(".new") for name in names)
    assert scraps >= {"config.json.new", "checkpoint.pt.new", "checkpoint.previous.pt", "run.lock"}
    assert len(moments.found) > 30


# Damage.


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_a_damaged_checkpoint_is_told_loudly_and_the_one_before_used(
    damage: str, tmp_path: Path, identical: Any
) -> None:
    straight, run = tmp_path / "straight", tmp_path / "run"
    whole = quiet(run_dir=straight)
    quiet(run_dir=run, epochs=1)
    checkpoint = run / "checkpoint.pt"
    content = checkpoint.read_bytes()
    match damage:
        case "truncated":
            checkpoint.write_bytes(content[: len(content) // 2])
        case "altered":
            checkpoint.write_bytes(content[:999] + bytes([content[999] ^ 1]) + content[1000:])
        case "missing":
            checkpoint.unlink()
    with pytest.warns(UserWarning, match=r"checkpoint.pt is .*resuming from checkpoint.previous.pt, step 3"):
        again = quiet(run_dir=run, resume=True)
    assert identical(dict(again.model.state_dict()), dict(whole.model.state_dict()))
    assert identical(final(run), final(straight)) and told(run) == told(straight) and proved(run)
    (event,) = [e for e in read_events(run / "events.jsonl") if e["kind"] == "resume"]
    assert event["step"] == 3 and "resuming from checkpoint.previous.pt" in event["warning"]
    (moment,) = [m for m in story(read_history(run / "events.jsonl")) if m.topic == "resume"]
    assert "resuming from checkpoint.previous.pt" in moment.reason
    assert (run / "checkpoint.damaged.pt").exists() == (damage != "missing")


def test_no_whole_checkpoint_is_an_error_and_nothing_is_touched(tmp_path: Path) -> None:
    quiet(run_dir=tmp_path, epochs=1)
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        (tmp_path / name).write_bytes(b"")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(DamagedFileError, match="remove both to start again"):
        quiet(run_dir=tmp_path, resume=True)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        (tmp_path / name).unlink()
    quiet(run_dir=tmp_path, resume=True)
    assert proved(tmp_path)


# A disk that is full, a folder that cannot be written.


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The system itself refuses to let a file of this process grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 300, 3000, 9000, 12000])
def test_a_disk_that_is_full_ends_the_run_and_the_next_goes_on(size: int, tmp_path: Path, identical: Any) -> None:
    straight, run = tmp_path / "straight", tmp_path / "run"
    whole = quiet(run_dir=straight)
    with (
        files_of_at_most(size),
        pytest.raises(RunFolderError, match=r"(write|written|lock).*(File too large|unexpected)"),
    ):
        quiet(run_dir=run, checkpoint_every=1e-9)
    assert not list(run.glob("*.new")) and not (run / "run.lock").exists()
    again = quiet(run_dir=run, resume=True)
    assert identical(dict(again.model.state_dict()), dict(whole.model.state_dict()))
    assert identical(final(run), final(straight)) and told(run) == told(straight) and proved(run)


@pytest.mark.parametrize("call", range(17))
def test_any_call_that_the_disk_refuses(
    call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, identical: Any
) -> None:
    """All fsync and rename from one on: of the settings 3, of two checkpoints 5 and 6, of the parameters 3."""
    code = (errno.ENOSPC, errno.EROFS, errno.EIO)[call % 3]
    straight, run = tmp_path / "straight", tmp_path / "run"
    whole = quiet(run_dir=straight, epochs=1)
    calls = itertools.count()
    with monkeypatch.context() as patched:
        for name in ("fsync", "replace"):
            act = getattr(os, name)

            def refusing(*arguments: Any, act: Any = act) -> None:
                if next(calls) >= call:
                    raise OSError(code, os.strerror(code))
                act(*arguments)

            patched.setattr(os, name, refusing)
        with pytest.raises(RunFolderError, match=re.escape(os.strerror(code))):
            quiet(run_dir=run, epochs=1)
    with after_kill(run):
        again = quiet(run_dir=run, resume=True, epochs=1)
    assert identical(dict(again.model.state_dict()), dict(whole.model.state_dict()))
    assert identical(final(run), final(straight)) and told(run) == told(straight) and proved(run, 1)


def test_a_read_only_folder_is_refused_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated, since permission bits do not stop every user; begun runs and new ones alike."""
    quiet(run_dir=tmp_path, epochs=1)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def refuse(**_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("rightbatch.record.folder.tempfile.TemporaryFile", refuse)
    model = network()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    for resume in (False, True):
        with pytest.raises(RunFolderError, match=r"cannot write .*\(Read-only file system\)"):
            quiet(model=model, run_dir=tmp_path, resume=resume)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


# Two runs on one folder.


def test_a_second_run_on_the_folder_is_refused_by_name(tmp_path: Path) -> None:
    refusals = []

    def loss(output: Tensor, target: Tensor) -> Tensor:
        if torch.is_grad_enabled() and (tmp_path / "run.lock").exists() and len(refusals) < 2:
            for resume in (False, True):
                with pytest.raises(RunFolderError) as caught:
                    quiet(run_dir=tmp_path, resume=resume)
                refusals.append(str(caught.value))
        return F.cross_entropy(output, target)

    quiet(run_dir=tmp_path, loss=loss)
    assert all(
        f"process {os.getpid()} on {socket.gethostname()} is writing to the run folder" in text for text in refusals
    )
    assert len(refusals) == 2 and proved(tmp_path)


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as other:
        pass
    (tmp_path / "run.lock").write_text(f'{{"pid": {other.pid}, "host": "{socket.gethostname()}"}}')
    quiet(run_dir=tmp_path, epochs=1)
    assert not (tmp_path / "run.lock").exists()


@pytest.mark.parametrize("wrong", [{"model": nn.Linear(2, 3)}, {"seed": 5}, {"loss": lambda output, target: 1 / 0}])
def test_a_run_that_fails_gives_the_lock_back(wrong: dict[str, Any], tmp_path: Path) -> None:
    quiet(run_dir=tmp_path, epochs=1)
    with pytest.raises((InputError, ZeroDivisionError)):
        quiet(run_dir=tmp_path, resume=True, **wrong)
    RunLock(RunFolder(tmp_path).lock).release()


# A clock that goes back.


def test_a_clock_that_goes_back_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, identical: Any) -> None:
    straight, run = tmp_path / "straight", tmp_path / "run"
    quiet(run_dir=straight, seconds=1000.0)
    seconds = itertools.count(1_700_000_000, -3600)

    class Backwards(datetime):
        @classmethod
        def now(cls, zone: Any = None) -> Any:
            return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=next(seconds) - 1_700_000_000)

    monkeypatch.setattr(time, "time", lambda: float(next(seconds)))
    monkeypatch.setattr(recorder, "datetime", Backwards)
    quiet(run_dir=run, epochs=1, seconds=1000.0)
    quiet(run_dir=run, resume=True, seconds=1000.0)
    assert identical(final(run), final(straight)) and told(run) == told(straight) and proved(run)
    events = read_events(run / "events.jsonl")
    stamps = [event["time"] for event in events if "time" in event]
    assert len(stamps) == 2 and stamps[0] > stamps[1], "they are what the clock said"
    took = [event["seconds"] for event in events if "seconds" in event]
    assert took == sorted(took) and took[0] > 0


# The parameters.


def test_weights_under_two_names_and_other_state(tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
            self.b.weight = self.a.weight
            self.out = nn.Linear(2, 3)
            self.register_buffer("part", torch.arange(6.0).reshape(2, 3).T)
            self.register_buffer("empty", torch.zeros(0))

        def get_extra_state(self) -> dict[str, int]:
            return {"version": 3}

        def set_extra_state(self, state: Any) -> None:
            assert state == {"version": 3}

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.out(self.b(self.a(x)))
            return out

    model = Tied()
    fit(model, blobs(60), batch_size=20, lr=0.1, epochs=1, progress=False, run_dir=tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    state = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    assert tensors.keys() == state.keys() and all(torch.equal(value, state[name]) for name, value in tensors.items())
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "left_out": "_extra_state"}


def test_a_model_that_could_not_be_saved_is_refused_before_training(tmp_path: Path) -> None:
    model = network()
    model.register_buffer("phase", torch.zeros(2, dtype=torch.complex128))
    with pytest.raises(InputError, match=r"phase of the model is torch.complex128 .*cannot hold: convert it"):
        quiet(model=model, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# Killed by the system, at random moments.


def train_big(folder: Path, epochs: int) -> None:
    """A run that spends much of its time on checkpoints."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 150), nn.Tanh(), nn.Dropout(0.1), nn.Linear(150, 150), nn.Linear(150, 3))
    data = blobs(1200)
    train, valid = data.subset(torch.arange(1000)), data.subset(torch.arange(1000, 1200))
    fit(
        model,
        train,
        valid=valid,
        batch_size="gradient-noise-scale(initial=8, max_size=32)",
        lr="noise-scaled(lr=0.05)",
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.02, momentum=0.9),
        noise="auto(every=3)",
        epochs=epochs,
        eval_every=0.2,
        run_dir=folder,
        resume=True,
        progress=False,
        checkpoint_every=0.03,
    )


def run_process(folder: Path, epochs: int, kill_after_s: float | None = None) -> bool:
    """Run, or go on with, a run in a process of its own; True if it came to its end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads: torch's are idle
        child = os.fork()
    if child == 0:
        code = 1
        try:
            warnings.filterwarnings("always", message=".*checkpoint.pt is missing")
            train_big(folder, epochs)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL)
    return code == 0


def check_kills(tmp_path: Path, kills: int, epochs: int, identical: Any) -> None:
    """Runs killed again and again until they end, as many as it takes to have so many kills."""
    straight = tmp_path / "straight"
    began_s = time.monotonic()
    assert run_process(straight, epochs)
    took_s = time.monotonic() - began_s
    expected, weights = final(straight), (straight / "model.safetensors").read_bytes()
    moments = random.Random(0)
    killed = in_checkpoint = runs = 0
    while killed < kills:
        folder = tmp_path / f"run-{runs}"
        runs += 1
        while killed < kills and not run_process(folder, epochs, moments.uniform(0.0, 0.5 * took_s)):
            killed += 1
            in_checkpoint += (folder / "checkpoint.pt.new").exists()
            if (folder / "events.jsonl").exists():
                read_events(folder / "events.jsonl")
        run_process(folder, epochs)
        assert (folder / "model.safetensors").read_bytes() == weights
        assert identical(final(folder), expected) and told(folder) == told(straight)
        report = verify_ledger(folder / "ledger.txt", 1000)
        assert report.ok and report.complete_epochs == epochs
        shutil.rmtree(folder)
    print(f"{killed} kills in {runs} runs of {took_s:.1f} s, {in_checkpoint} of them while a checkpoint was written")


@pytest.mark.nightly
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_by_the_system_a_hundred_times(tmp_path: Path, identical: Any) -> None:
    check_kills(tmp_path, kills=100, epochs=1, identical=identical)
