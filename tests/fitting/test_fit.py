"""`fit` from data to report: budgets, the best iterate, the run folder, Ctrl-C and going on."""

import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from rightbatch import DivergedError, InputError, RunFolderError, fit
from rightbatch.data import Source, blobs, load
from rightbatch.fitting import Run
from rightbatch.fitting.checkpoint import load_checkpoint
from rightbatch.fitting.evaluation import evaluate
from rightbatch.models import build_model
from rightbatch.record import counted_events, read_events, verify_ledger
from rightbatch.rules.batch_size import BATCH_SIZE_RULES, BigBatch
from rightbatch.rules.lr import LR_RULES

N = 150
CPU = torch.device("cpu")
STEP_KEYS = {"step", "samples", "epoch", "seconds", "batch_size", "lr", "train_loss", "noise_scale"}
EVALUATION_KEYS = {"step", "samples", "epoch", "seconds", "valid_loss", "valid_accuracy"}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 3))


def part(start: int, stop: int) -> Source:
    return blobs(260).subset(torch.arange(start, stop))


def train_data() -> Source:
    return part(0, N)


def valid_data() -> Source:
    return part(N, 210)


def held_back() -> Source:
    return part(210, 260)


def quiet(model: nn.Module, train: Any = None, **settings: Any) -> Run:
    settings = {"batch_size": 30, "lr": 0.1, "progress": False, **settings}
    return fit(model, train_data() if train is None else train, **settings)


def steps(run: Run) -> list[dict[str, Any]]:
    return [row for row in run.history if "train_loss" in row]


def evaluations(run: Run) -> list[dict[str, Any]]:
    return [row for row in run.history if "valid_loss" in row]


def untimed(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history]


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


# History and budgets.


def test_the_history(no_report: None) -> None:
    run = quiet(network(), valid=valid_data(), epochs=3, eval_every=0.5)
    assert len(steps(run)) == 15 and len(run.history) == 15 + len(evaluations(run))
    for row in steps(run):
        assert row.keys() >= STEP_KEYS and "valid_loss" not in row
    for row in evaluations(run):
        assert row.keys() >= EVALUATION_KEYS
    assert [row["step"] for row in steps(run)] == list(range(1, 16))
    assert [row["samples"] for row in steps(run)] == [30 * k for k in range(1, 16)]
    assert [row["samples"] for row in evaluations(run)] == [90, 150, 240, 300, 390, 450]
    seconds = [row["seconds"] for row in run.history]
    assert seconds == sorted(seconds) and seconds[0] > 0
    assert run.stopped == "3 epochs are done" and run.folder is None and run.test is None


def test_default_budgets(no_report: None, tmp_path: Path) -> None:
    run = quiet(network(), run_dir=tmp_path / "a")
    assert run.stopped == "10 epochs are done"
    assert run.best == {}
    run = quiet(network(), valid=valid_data(), lr=30.0, run_dir=tmp_path / "b")
    assert run.stopped == "no improvement in 5 evaluations"
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    assert config["budget"] == "100 epochs or 5 evaluations without a better validation loss"


def test_a_budget_of_seconds(no_report: None) -> None:
    run = quiet(network(), seconds=0.05)
    assert run.stopped == "time limit reached (0.05 s)"
    assert steps(run)


def test_a_target(no_report: None) -> None:
    run = quiet(network(), valid=valid_data(), stop_at={"valid_accuracy": 0.5}, epochs=200)
    assert run.stopped.startswith("target reached: valid_accuracy")
    *before, last = [row["valid_accuracy"] for row in evaluations(run)]
    assert last >= 0.5 and all(value < 0.5 for value in before)
    run = quiet(network(), valid=valid_data(), stop_at={"valid_loss": 0.7}, epochs=200)
    *before, last = [row["valid_loss"] for row in evaluations(run)]
    assert last <= 0.7 and all(value > 0.7 for value in before)
    assert run.best["valid_loss"] == last


def test_patience(no_report: None) -> None:
    """Ended by so many evaluations in a row without a better loss, counted from the best one."""
    run = quiet(network(), valid=valid_data(), lr=30.0, patience=3, eval_every=0.4)
    assert run.stopped == "no improvement in 3 evaluations"
    losses = [row["valid_loss"] for row in evaluations(run)]
    assert losses.index(min(losses)) == len(losses) - 4
    assert [row["best"] for row in evaluations(run)][-4:] == [True, False, False, False]


def test_the_end_is_evaluated(no_report: None) -> None:
    """A run that ends between two evaluations gets one more, and no run two at one step."""
    run = quiet(network(), valid=valid_data(), epochs=2, eval_every=1.5)
    assert [row["samples"] for row in evaluations(run)] == [240, 300]
    run = quiet(network(), valid=valid_data(), epochs=2)
    assert [row["samples"] for row in evaluations(run)] == [150, 300]


# What comes out.


def test_valid_as_a_fraction(no_report: None, tmp_path: Path) -> None:
    run = quiet(network(), valid=0.2, epochs=1, run_dir=tmp_path / "run")
    start = read_events(tmp_path / "run" / "events.jsonl")[0]
    assert (start["train_samples"], start["valid_samples"]) == (120, 30)
    assert sum(row["batch_size"] for row in steps(run)) == 120
    assert verify_ledger(tmp_path / "run" / "ledger.txt", 120).complete_epochs == 1


@pytest.mark.parametrize(("batch", "step"), [(30, 0.3), (30, 40.0), (30, "auto"), (BigBatch(), "armijo")])
def test_the_best_iterate_comes_back(batch: Any, step: Any, no_report: None) -> None:
    model, valid = network(), valid_data()
    run = quiet(model, valid=valid, batch_size=batch, lr=step, epochs=8, eval_every=0.5)
    assert run.model is model
    losses = [row["valid_loss"] for row in evaluations(run)]
    assert run.best["valid_loss"] == min(losses)
    found = evaluate(model, F.cross_entropy, valid, CPU)
    assert (found["loss"], found["accuracy"]) == (run.best["valid_loss"], run.best["valid_accuracy"])
    (row,) = [row for row in evaluations(run) if row["step"] == run.best["step"]]
    assert row == {**run.best, "best": True}
    if step == 40.0:
        assert losses[-1] > min(losses), "here the last is not the best"


def test_the_best_by_accuracy_where_only_that_is_the_target(no_report: None) -> None:
    run = quiet(network(), valid=valid_data(), stop_at={"valid_accuracy": 1.0}, epochs=6, lr=3.0)
    assert run.best["valid_accuracy"] == max(row["valid_accuracy"] for row in evaluations(run))


def test_the_last_iterate_without_validation(no_report: None) -> None:
    """Of an averaging run that is the average, with BatchNorm's statistics taken at it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
    run = quiet(model, lr="averaged-distance", epochs=6)
    x, _ = train_data().fetch(torch.arange(N))
    hidden = model[0](x).detach()
    torch.testing.assert_close(model[1].running_mean, hidden.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model[1].running_var, hidden.var(0), rtol=1e-4, atol=1e-5)
    found = evaluate(model, F.cross_entropy, train_data(), CPU)
    assert found["loss"] < steps(run)[0]["train_loss"]


class Counting(Source):
    """Counts the samples fetched from another source."""

    def __init__(self, source: Source) -> None:
        self.source, self.fetched = source, 0
        self.x_shape, self.x_dtype, self.y_shape = source.x_shape, source.x_dtype, source.y_shape
        self.y_dtype, self.y_range, self.notes = source.y_dtype, source.y_range, source.notes

    def __len__(self) -> int:
        return len(self.source)

    def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        self.fetched += len(indices)
        return self.source.fetch(indices)


def test_the_test_data_are_evaluated_once(no_report: None) -> None:
    test = Counting(held_back())
    model = network()
    run = quiet(model, valid=valid_data(), test=test, epochs=4)
    assert test.fetched == 50 + 2, "and two samples that the model was tried on"
    assert run.test == evaluate(model, F.cross_entropy, test.source, CPU)


def test_regression(no_report: None) -> None:
    x = torch.randn(80, 3)
    y = x @ torch.tensor([1.0, -2.0, 0.5])
    run = quiet(nn.Linear(3, 1), (x, y), valid=0.25, batch_size=10, epochs=20)
    assert run.best["valid_accuracy"] is None
    assert run.best["valid_loss"] < 1e-3


@pytest.mark.parametrize(
    "optimizer",
    [
        torch.optim.Adam,
        lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
        None,
    ],
)
def test_optimizers(optimizer: Any, no_report: None) -> None:
    run = quiet(network(), valid=valid_data(), optimizer=optimizer, lr=0.05, epochs=6)
    assert run.best["valid_loss"] < 0.8 * evaluate(network(), F.cross_entropy, valid_data(), CPU)["loss"]


def test_an_optimizer_given_whole_and_its_own_rate(no_report: None) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.125)
    run = quiet(model, optimizer=optimizer, lr=None, epochs=1)
    assert {row["lr"] for row in steps(run)} == {0.125}


ARGUMENTS: dict[str, tuple[Any, Any]] = {
    "fixed": (32, 0.1),
    "big-batch": ("big-batch", 0.1),
    "sweet-spot": ("sweet-spot(initial=16, max_size=32)", 0.1),
    "constant": (32, "constant(lr=0.1)"),
    "armijo": ("big-batch", "armijo"),
    "barzilai-borwein": ("big-batch", "barzilai-borwein"),
    "noise-scaled": (32, "noise-scaled(lr=0.3)"),
    "averaged-distance": (16, "averaged-distance"),
    "growth": ("growth(over_epochs=1)", 0.1),
    "ad-ada-grad": ("ad-ada-grad(max_size=64)", 0.1),
    "ddp-norm": ("ddp-norm(max_size=64)", 0.1),
    "interpolation": ("interpolation(20.0, 5.0)", "auto"),
    "seesaw": ("seesaw(total_samples=2000)", 0.1),
    "dog": (32, "dog(relative_start=0.01)"),
    "linear-scaling": (32, "linear-scaling(0.3, at=32)"),
    "square-root-scaling": (32, "square-root-scaling(0.3)"),
    "legw": (32, "legw(0.3)"),
    "ada-scale": (32, "ada-scale(0.1, at=8)"),
    "surge": (32, "surge(0.3)"),
    "inverse-time": (32, "inverse-time(0.3)"),
    "exponential": (32, "exponential(0.3)"),
    "step-decay": (32, "step-decay(0.3)"),
    "polynomial": (32, "polynomial(0.3)"),
    "cosine": (32, "cosine(0.3)"),
    "one-cycle": (32, "one-cycle(0.3)"),
    "warm-up": (32, "warm-up(0.3, over_epochs=0.2)"),
    "momentum-schedule": (32, "momentum-schedule(0.1, stages=((0, 0.5), (10, 0.9)))"),
}
OPTIMIZERS = dict.fromkeys(("sde", "beta2-half-life"), torch.optim.Adam)  # rules that go with Adam only


@pytest.mark.parametrize("rule", [*(BATCH_SIZE_RULES | LR_RULES)])
def test_every_rule_lowers_the_loss_of_a_network_on_digits(rule: str, no_report: None) -> None:
    splits = load("digits")
    assert splits.test is not None
    model = build_model("mlp", splits.train.x_shape, 10)
    before = evaluate(model, F.cross_entropy, splits.test, CPU)["loss"]
    batch, step = ARGUMENTS.get(rule, (rule, 0.1) if rule in BATCH_SIZE_RULES else (32, rule))
    optimizer = OPTIMIZERS[rule](model.parameters()) if rule in OPTIMIZERS else None
    run = quiet(model, splits.train, batch_size=batch, lr=step, epochs=1, test=splits.test, optimizer=optimizer)
    assert run.test is not None and run.test["loss"] < before - 0.02
    assert sum(row["batch_size"] for row in steps(run)) <= len(splits.train)


# What is left alone.


def test_nothing_is_printed_without_progress(
    no_report: None, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    quiet(network(), valid=valid_data(), epochs=2, run_dir=tmp_path / "run")
    assert capfd.readouterr() == ("", "")
    quiet(network(), valid=valid_data(), epochs=2, progress=None)
    out, err = capfd.readouterr()
    assert not out and "valid loss" in err and "2 epochs are done" in err


def test_the_callers_random_numbers_are_untouched(no_report: None) -> None:
    results = []
    for seed in (1, 2):
        model = network()
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        quiet(model, epochs=2, seed=5)
        assert torch.equal(torch.get_rng_state(), before)
        results.append(weights(model))
    assert torch.equal(*results), "and the result depends on fit's own seed only"
    other = network()
    quiet(other, epochs=2, seed=6)
    assert not torch.equal(weights(other), results[0])


# The run folder.


def test_the_run_folder(tmp_path: Path) -> None:
    model = network()
    settings = {"valid": valid_data(), "test": held_back(), "epochs": 2, "run_dir": tmp_path / "a" / "run"}
    run = quiet(model, batch_size="big-batch", lr="armijo", **settings)
    folder = tmp_path / "a" / "run"
    assert run.folder == folder
    names = ["checkpoint.previous.pt", "checkpoint.pt", "config.json", "events.jsonl", "ledger.txt"]
    names += ["model.safetensors", "report.html"]
    assert sorted(file.name for file in folder.iterdir()) == names
    config = json.loads((folder / "config.json").read_text())
    assert config["train_samples"] == N and config["seed"] == 0 and config["batch_size"].startswith("big-batch")
    events = read_events(folder / "events.jsonl")
    assert events[0]["kind"] == "start" and events[-1]["kind"] == "stop"
    assert {event["kind"] for event in events} >= {"start", "decision", "step", "evaluation", "stop"}
    assert "per-example norms" in events[0]["noise"]["method"]
    told = [event for event in events if event["kind"] in ("step", "evaluation")]
    assert [{k: v for k, v in event.items() if k != "kind"} for event in told] == run.history
    assert events[-1]["reason"] == run.stopped == "2 epochs are done"
    assert events[-1]["best"] == run.best and events[-1]["test"] == run.test
    report = verify_ledger(folder / "ledger.txt", N)
    assert report.ok and report.complete_epochs == 2
    parameters = load_file(folder / "model.safetensors")
    assert parameters.keys() == model.state_dict().keys()
    assert all(torch.equal(value, parameters[name]) for name, value in model.state_dict().items())
    assert load_checkpoint(folder / "checkpoint.pt")["auto"]["run"]["samples"] == 2 * N
    assert "<html" in (folder / "report.html").read_text()[:500].lower()


class TiedByUse(nn.Module):
    """Uses a layer's weight a second time where no hook sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(torch.tanh(F.linear(self.layer(x), self.layer.weight.T)))
        return out


def test_the_record_says_that_exact_norms_were_given_up(no_report: None, tmp_path: Path) -> None:
    quiet(TiedByUse(), batch_size="big-batch", epochs=1, run_dir=tmp_path / "run")
    events = read_events(tmp_path / "run" / "events.jsonl")
    assert "exact" in events[0]["noise"]["method"]
    assert "micro-batches, because" in events[-1]["noise"]["method"]


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_an_existing_run_is_not_touched(no_report: None, tmp_path: Path) -> None:
    quiet(network(), epochs=1, run_dir=tmp_path)
    before = contents(tmp_path)
    with pytest.raises(RunFolderError, match="resume=True"):
        quiet(network(), epochs=1, run_dir=tmp_path)
    assert contents(tmp_path) == before


# Going on.


@pytest.mark.parametrize("step", [0.1, "averaged-distance", "armijo"])
def test_going_on_is_bit_for_bit(step: Any, no_report: None, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"batch_size": 32, "lr": step, "valid": valid_data(), "eval_every": 0.5}
    straight = quiet(network(), epochs=4, run_dir=tmp_path / "straight", **settings)
    quiet(network(), epochs=2, run_dir=tmp_path / "run", **settings)
    model = network()
    with torch.no_grad():
        model[0].weight.fill_(9.0)
    torch.manual_seed(77)
    resumed = quiet(model, epochs=4, run_dir=tmp_path / "run", resume=True, **settings)
    assert torch.equal(weights(model), weights(straight.model))
    assert untimed(resumed.history) == untimed(straight.history)
    assert untimed([resumed.best]) == untimed([straight.best])
    seconds = [row["seconds"] for row in resumed.history]
    assert seconds == sorted(seconds)
    ledger = verify_ledger(tmp_path / "run" / "ledger.txt", N)
    assert ledger.ok and ledger.complete_epochs == 4
    told = [e for e in counted_events(tmp_path / "run" / "events.jsonl") if e["kind"] in ("step", "evaluation")]
    assert [{k: v for k, v in event.items() if k != "kind"} for event in told] == resumed.history


TRIED = 4  # calls of the loss before training


def failing_at(call: int, error: Exception) -> Callable[[Tensor, Tensor], Tensor]:
    calls = iter(range(10**6))

    def loss(output: Tensor, target: Tensor) -> Tensor:
        # The first calls are fit's trial of model and loss.
        if next(calls) == TRIED + call - 1:
            raise error
        return F.cross_entropy(output, target)

    return loss


@pytest.mark.parametrize("call", [3, 14])
def test_a_run_that_broke_off_goes_on(call: int, no_report: None, tmp_path: Path) -> None:
    """Before its first checkpoint nothing of it counts; later, what the checkpoint holds."""
    settings: dict[str, Any] = {"epochs": 4, "eval_every": 0.7}
    straight = quiet(network(), loss=F.cross_entropy, **settings)
    with pytest.raises(ValueError, match="the disk of the data is gone"):
        broken = failing_at(call, ValueError("the disk of the data is gone"))
        quiet(network(), loss=broken, run_dir=tmp_path, **settings)
    events = read_events(tmp_path / "events.jsonl")
    assert events[-1]["kind"] == "stop" and "the disk of the data is gone" in events[-1]["reason"]
    assert (tmp_path / "checkpoint.pt").exists() == (call == 14)
    model = network()
    resumed = quiet(model, loss=F.cross_entropy, run_dir=tmp_path, resume=True, **settings)
    assert torch.equal(weights(model), weights(straight.model))
    assert untimed(resumed.history) == untimed(straight.history)
    ledger = verify_ledger(tmp_path / "ledger.txt", N)
    assert ledger.ok and ledger.complete_epochs == 4 and ledger.rewound_entries > 0


def test_patience_counts_on_after_a_resume(no_report: None, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"valid": valid_data(), "lr": 30.0, "patience": 3, "eval_every": 0.4}
    straight = quiet(network(), **settings)
    second_worse = evaluations(straight)[-2]["step"]
    taken = iter(range(10**6))

    def loss(output: Tensor, target: Tensor) -> Tensor:
        if torch.is_grad_enabled() and next(taken) == second_worse:
            raise ValueError("broken off")
        return F.cross_entropy(output, target)

    with pytest.raises(ValueError, match="broken off"):
        quiet(network(), loss=loss, run_dir=tmp_path, **settings)
    resumed = quiet(network(), run_dir=tmp_path, resume=True, **settings)
    assert resumed.stopped == straight.stopped == "no improvement in 3 evaluations"
    assert untimed(resumed.history) == untimed(straight.history)
    assert torch.equal(weights(resumed.model), weights(straight.model))


def test_resume_begins_a_run_where_there_is_none(no_report: None, tmp_path: Path) -> None:
    run = quiet(network(), epochs=1, run_dir=tmp_path / "new", resume=True)
    assert run.stopped == "1 epoch is done" and (tmp_path / "new" / "model.safetensors").exists()


def test_going_on_with_a_run_that_is_done_changes_nothing(no_report: None, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"epochs": 2, "valid": valid_data(), "run_dir": tmp_path}
    first = quiet(network(), **settings)
    again = quiet(network(), resume=True, **settings)
    assert torch.equal(weights(again.model), weights(first.model))
    assert again.history == first.history and again.best == first.best and again.stopped == first.stopped


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 8}, "seed=0, .* seed=8"),
        ({"train": blobs(N + 2)}, f"n={N}, .* n={N + 2}"),
        ({"model": nn.Linear(2, 3)}, "does not match this model: .*Linear"),
    ],
)
def test_going_on_with_another_run_is_refused(
    changes: dict[str, Any], message: str, no_report: None, tmp_path: Path
) -> None:
    quiet(network(), epochs=1, run_dir=tmp_path)
    before = contents(tmp_path)
    settings = {"epochs": 2, "run_dir": tmp_path, "resume": True, **changes}
    with pytest.raises(InputError, match=message):
        quiet(settings.pop("model", network()), settings.pop("train", None), **settings)
    assert contents(tmp_path) == before


# Ctrl-C.


def interrupting(when: Callable[[int, bool], bool]) -> Callable[[Tensor, Tensor], Tensor]:
    """Cross-entropy that sends Ctrl-C to its own process once, at the call and in the phase that `when` chooses."""
    calls, sent = iter(range(10**6)), False

    def loss(output: Tensor, target: Tensor) -> Tensor:
        nonlocal sent
        if not sent and when(next(calls), torch.is_grad_enabled()):
            sent = True
            os.kill(os.getpid(), signal.SIGINT)
        return F.cross_entropy(output, target)

    return loss


def test_an_interruption_ends_the_run_cleanly(tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGINT)
    model = network()
    loss = interrupting(lambda call, training: training and call >= TRIED + 6)
    run = quiet(model, loss=loss, valid=valid_data(), epochs=50, run_dir=tmp_path)
    assert run.stopped == "interrupted"
    assert signal.getsignal(signal.SIGINT) is handler
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "checkpoint.previous.pt", "checkpoint.pt", "config.json", "events.jsonl", "ledger.txt", "model.safetensors",
        "report.html",
    ]  # fmt: skip
    events = read_events(tmp_path / "events.jsonl")
    assert events[-1]["kind"] == "stop" and events[-1]["reason"] == "interrupted"
    last = steps(run)[-1]
    assert evaluations(run)[-1]["step"] == last["step"] == events[-1]["step"], "the iterate reached is evaluated"
    report = verify_ledger(tmp_path / "ledger.txt", N)
    assert report.ok and report.last_epoch_samples + N * report.last_epoch == last["samples"]
    found = evaluate(model, F.cross_entropy, valid_data(), CPU)
    assert found["loss"] == run.best["valid_loss"]


@pytest.mark.parametrize(
    ("batch", "step", "micro_batch", "trial"),
    [(30, 0.1, 7, False), (30, "auto", 7, False), ("big-batch", "armijo", 7, True), (30, "armijo", 7, True)],
)
def test_a_run_interrupted_in_the_midst_of_a_step_goes_on_bit_for_bit(
    batch: Any, step: Any, micro_batch: int, trial: bool, no_report: None, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"batch_size": batch, "lr": step, "micro_batch": micro_batch, "epochs": 3}
    straight = quiet(network(), **settings)
    # Five micro-batches a step: this is the second of a trial, or of the second step.
    loss = interrupting(lambda call, gradient: call > 6 and gradient != trial)
    first = quiet(network(), loss=loss, run_dir=tmp_path, **settings)
    assert first.stopped == "interrupted" and 0 < len(first.history) < len(straight.history)
    resumed = quiet(network(), run_dir=tmp_path, resume=True, **settings)
    assert torch.equal(weights(resumed.model), weights(straight.model))
    assert untimed(resumed.history) == untimed(straight.history)
    assert verify_ledger(tmp_path / "ledger.txt", N).complete_epochs == 3


def test_a_later_interruption_ends_at_once(no_report: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(10**6))
    monkeypatch.setattr("rightbatch.fitting.stopping.ECHO_S", -1.0)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        if next(calls) == TRIED + 7:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("the second should have come through")
        return F.cross_entropy(output, target)

    run = quiet(network(), loss=loss, valid=valid_data(), epochs=50, run_dir=tmp_path)
    assert run.stopped == "interrupted"
    assert read_events(tmp_path / "events.jsonl")[-1]["reason"] == "interrupted"
    assert verify_ledger(tmp_path / "ledger.txt", N).ok


# Numbers that are not finite.


def test_a_failure_is_recorded(no_report: None, tmp_path: Path) -> None:
    calls = iter(range(10**6))

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target) * (float("nan") if next(calls) == TRIED + 7 else 1.0)

    run = quiet(network(), loss=loss, epochs=3, run_dir=tmp_path)
    (event,) = [e for e in read_events(tmp_path / "events.jsonl") if e["kind"] == "failure"]
    assert (event["step"], event["reason"], event["lr"], event["restored_step"]) == (
        8, "the loss became nan", 0.05, 0,
    )  # fmt: skip
    assert [row["step"] for row in steps(run)] == [*range(1, 8), *range(9, 16)]
    assert verify_ledger(tmp_path / "ledger.txt", N).complete_epochs == 3


def test_a_run_that_diverges_says_so_and_leaves_everything_written(no_report: None, tmp_path: Path) -> None:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target) * (math.nan if torch.is_grad_enabled() else 1.0)

    model = network()
    before = weights(model)
    with pytest.raises(DivergedError, match="smaller learning rate"):
        quiet(model, loss=loss, epochs=3, run_dir=tmp_path)
    assert torch.equal(weights(model), before)
    events = read_events(tmp_path / "events.jsonl")
    assert [event["kind"] for event in events].count("failure") == 5
    assert events[-1]["kind"] == "stop" and "Training was stopped" in events[-1]["reason"]
    assert verify_ledger(tmp_path / "ledger.txt", N).ok
