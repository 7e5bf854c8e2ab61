"""Memory that runs out: the same batches in smaller passes, the same training but for rounding."""

import os
import subprocess
import sys
import weakref
from html import unescape
from pathlib import Path
from textwrap import indent
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rightbatch import AutoBatch, OutOfMemoryError, fit
from rightbatch.data import as_source
from rightbatch.data.arrays import TensorSource
from rightbatch.fitting.evaluation import evaluate, refresh_batch_norm
from rightbatch.loop.memory.forward_limit import CALM_STEPS, ForwardLimit
from rightbatch.record import read_history, verify_ledger
from rightbatch.record.events import read_events
from rightbatch.report.story import story
from rightbatch.report.summary import details

torch.manual_seed(0)
X = torch.randn(200, 4, dtype=torch.float64)
Y = (X[:, 0] * X[:, 1] > 0).long()
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_rubbish(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking for it takes a quarter of a second in a process that holds a test suite; nothing here depends on it."""
    monkeypatch.setattr("rightbatch.loop.memory.forward_limit.gc.collect", lambda: 0)


class Narrow(nn.Module):
    """Runs out of memory above `most` samples, in the forward or in the backward pass, or in evaluation too."""

    error: type[Exception] = torch.OutOfMemoryError

    def __init__(self, most: int, where: str = "forward", *layers: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), *layers, nn.Tanh(), nn.Linear(8, 2)).double()
        self.most, self.where = most, where
        self.passes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.passes.append(len(x))
        out: Tensor = self.layers(x)
        if len(x) > self.most:
            if self.where == "backward" and out.requires_grad:
                out.register_hook(self.run_out)
            elif self.where == "everywhere" or (self.where == "forward" and torch.is_grad_enabled()):
                raise self.error("CUDA out of memory. Tried to allocate")
        return out

    def run_out(self, gradient: Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")


def trained(model: nn.Module, **settings: Any) -> Any:
    settings = {"batch_size": 50, "lr": 0.5, "epochs": 3, "progress": False, "loss": F.cross_entropy, **settings}
    return fit(model, (X, Y), **settings)


def require_same(a: nn.Module, b: nn.Module, exactly: bool = False) -> None:
    for one, other in zip(a.state_dict().values(), b.state_dict().values(), strict=True):
        assert torch.equal(one, other) if exactly else torch.allclose(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_fit_halves_and_trains_the_same(where: str, tmp_path: Path, no_report: None) -> None:
    wide, narrow = Narrow(1000), Narrow(13, where)
    expected, run = trained(wide), trained(narrow, run_dir=tmp_path / "run")
    assert [row["batch_size"] for row in run.history] == [row["batch_size"] for row in expected.history] == [50] * 12
    require_same(wide, narrow)
    assert verify_ledger(tmp_path / "run" / "ledger.txt", 200).ok
    # 50 fails, 25 fails, the four passes of 12 or 13 fit from then on.
    training = [n for n in narrow.passes if n != 2]
    assert training[:4] == [50, 25, 12, 13] and max(training[2:]) == 13


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_the_passes_given_back_leave_no_trace(where: str) -> None:
    """Dropout draws and BatchNorm averages as if the passes had been small from the start: equal bit for bit."""
    layers = (nn.BatchNorm1d(8), nn.Dropout(0.3))
    narrow, small = Narrow(13, where, *layers), Narrow(1000, where, nn.BatchNorm1d(8), nn.Dropout(0.3))
    trained(narrow), trained(small, micro_batch=13)
    assert 50 in narrow.passes and 50 not in small.passes
    require_same(narrow, small, exactly=True)


def test_a_resumed_run_goes_on_in_passes_that_fit(tmp_path: Path, no_report: None) -> None:
    whole, first, second = Narrow(13), Narrow(13), Narrow(13)
    trained(whole)
    trained(first, epochs=1, run_dir=tmp_path / "run")
    trained(second, run_dir=tmp_path / "run", resume=True)
    assert max(first.passes) == 50 and max(second.passes) == 13
    require_same(whole, second, exactly=True)


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_nothing_of_a_failed_pass_is_held(where: str) -> None:
    """When the next pass begins, the activations of the one before are gone, garbage not having been collected."""
    held: list[bool] = []

    class Watched(Narrow):
        activations: list[weakref.ref[Tensor]]

        def forward(self, x: Tensor) -> Tensor:
            held.append(any(each() is not None for each in self.__dict__.get("activations", [])))
            first = self.layers[0](x)
            second = self.layers[1](first)
            self.__dict__["activations"] = [weakref.ref(first), weakref.ref(second)]
            out: Tensor = self.layers[2](second)
            if len(x) > self.most and torch.is_grad_enabled():
                if self.where == "forward":
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
                out.register_hook(self.run_out)
            return out

    trained(Watched(13, where), epochs=1)
    assert len(held) > 10 and not any(held)


@pytest.mark.parametrize(("batch", "step"), [("auto", "auto"), ("big-batch", "armijo"), ("big-batch", "auto")])
def test_rules_that_measure_enlarge_and_search(batch: str, step: str, tmp_path: Path, no_report: None) -> None:
    run = trained(Narrow(9), batch_size=batch, lr=step, run_dir=tmp_path / "run")
    report = verify_ledger(tmp_path / "run" / "ledger.txt", 200)
    assert report.ok and report.complete_epochs == 3 and run.history


class Searching(Narrow):
    """Runs out of memory once, at the first trial step."""

    tripped = False

    def forward(self, x: Tensor) -> Tensor:
        if self.layers.training and not torch.is_grad_enabled() and not self.tripped and self.where == "search":
            self.tripped = True
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return super().forward(x)


@pytest.mark.parametrize("batch", ["25", "norm-test(initial=25)", "big-batch(initial=25)"])
def test_a_trial_step_that_runs_out_begins_the_batch_anew(batch: str) -> None:
    """Neither batch rule nor noise tracker take the batch in twice."""
    settings: dict[str, Any] = {"batch_size": batch, "lr": "armijo", "noise": "per-example(every=1)", "micro_batch": 13}
    if batch == "25":
        settings["noise"] = None
    tripped, straight = Searching(1000, "search"), Searching(1000)
    found, expected = trained(tripped, **settings), trained(straight, **(settings | {"micro_batch": 7}))
    assert tripped.tripped
    keys = ("step", "batch_size", "train_loss", "noise_scale", "noise_age_samples")
    rows = [[[row.get(key) or 0.0 for key in keys] for row in run.history] for run in (found, expected)]
    torch.testing.assert_close(torch.tensor(rows[0]), torch.tensor(rows[1]), rtol=1e-6, atol=1e-9)
    require_same(tripped, straight)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
@pytest.mark.parametrize(("page", "section"), [("trust", "## Memory that runs out"), ("how-to-choose", "**Memory.**")])
def test_the_loops_of_the_docs_run_as_written(page: str, section: str, error: type[Exception]) -> None:
    text = (Path(__file__).parents[2] / "docs" / f"{page}.md").read_text(encoding="utf-8")
    code = text.split(section)[1].split("```python")[1].split("```")[0]
    if "for x, y in auto" not in code:
        code = "for x, y in auto:\n" + indent(code, "    ")
    model = Narrow(13)
    model.error = error
    auto = AutoBatch(model, torch.optim.SGD(model.parameters(), 0.5), (X, Y), batch_size=50, epochs=3)
    exec(code, {"F": F, "auto": auto, "model": model})
    assert auto.forward_limit == 13
    expected = Narrow(1000)
    trained(expected)
    require_same(expected, model)


def test_examples_that_do_not_fit_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetching belongs to the pass; the loop need not catch what happens there."""
    model = Narrow(1000)
    auto = AutoBatch(model, torch.optim.SGD(model.parameters(), 0.5), (X, Y), batch_size=50, epochs=3)
    fetch = auto._step.stream.fetch

    def narrow(interval: Any) -> Any:
        if interval.samples > 13:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")
        return fetch(interval)

    monkeypatch.setattr(auto._step.stream, "fetch", narrow)
    for x, y in auto:
        assert len(x) <= 13
        auto.backward(F.cross_entropy(model(x), y))
        auto.step()
    expected = Narrow(1000)
    trained(expected)
    require_same(expected, model)


REALLY = """
import resource
from pathlib import Path
import torch
import torch.nn.functional as F
from torch import nn
from rightbatch import AutoBatch

x = torch.randn(4096, 8)
model = nn.Sequential(nn.Linear(8, 4096), nn.ReLU(), nn.Linear(4096, 2))
auto = AutoBatch(model, torch.optim.SGD(model.parameters(), 0.1), (x, (x[:, 0] > 0).long()), 4096, epochs=1)
F.cross_entropy(model(x[:2]), torch.tensor([0, 1])).backward()
mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, 2 * (mapped + 150 * 2**20,))
for inputs, targets in auto:
    try:
        auto.backward(F.cross_entropy(model(inputs), targets))
    except RuntimeError as error:
        auto.handle_oom(error)
        continue
    auto.step()
print(auto.steps, auto.samples, auto.forward_limit)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="knows how to measure and limit memory on Linux only")
def test_memory_that_really_runs_out() -> None:
    """150 MB more than it has: a layer of 4,096 units holds 64 MB thrice over 4,096 samples, half over 2,048.

    In a process of its own: one that has run tests holds memory freed before, which it could use again.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", REALLY]
    answer = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert answer.stdout.split() == ["1", "4096", "2048"], answer.stderr


def test_what_halving_cannot_help() -> None:
    with pytest.raises(OutOfMemoryError, match=r"a single sample on cpu, and passes .*torch\.utils\.checkpoint"):
        trained(Narrow(0))

    class Wrong(Narrow):
        def forward(self, x: Tensor) -> Tensor:
            if len(self.passes) > 4:
                raise RuntimeError("shapes do not match")
            return super().forward(x)

    with pytest.raises(RuntimeError, match="shapes do not match"):
        trained(Wrong(1000))
    model = Narrow(1000)
    auto = AutoBatch(model, torch.optim.SGD(model.parameters(), 0.5), (X, Y), batch_size=50)
    with pytest.raises(torch.OutOfMemoryError, match="elsewhere"):
        auto.handle_oom(torch.OutOfMemoryError("elsewhere"))  # no micro-batch is under way


def test_it_is_recorded_and_told(tmp_path: Path) -> None:
    trained(Narrow(13), run_dir=tmp_path / "run")
    told = [event for event in read_events(tmp_path / "run" / "events.jsonl") if event["kind"] == "memory"]
    common = {"kind": "memory", "step": 0, "samples": 0, "rank": None, "device": "cpu"}
    assert told == [{**common, "old": 50, "new": 25}, {**common, "old": 25, "new": 13}]
    history = read_history(tmp_path / "run" / "events.jsonl")
    assert history.memory == told
    page = (tmp_path / "run" / "report.html").read_text()
    (fact,) = (fact for fact in details(history) if fact.name == "Out of memory")
    assert fact.value.startswith("2 ") and "13 samples" in fact.remark
    (moment,) = (moment for moment in story(history) if moment.topic == "memory")
    assert all(part in moment.text for part in ("cpu", "50 samples", "25", "13 samples"))
    assert moment.text in unescape(page)


def test_growing_back_is_recorded(tmp_path: Path, no_report: None) -> None:
    trained(Narrow(10), batch_size=20, epochs=12, micro_batch=20, run_dir=tmp_path / "run")
    told = [e for e in read_events(tmp_path / "run" / "events.jsonl") if e["kind"] == "memory"]
    assert [(e["step"], e["old"], e["new"]) for e in told] == [(0, 20, 10), (100, 10, 20), (100, 20, 10)]


def test_larger_passes_than_batches_want_are_not_said_to_be_tried(tmp_path: Path, no_report: None) -> None:
    class Once(Narrow):
        def forward(self, x: Tensor) -> Tensor:
            self.most = 1 if len(self.passes) == 10 else 1000
            return super().forward(x)

    trained(Once(1000), batch_size=8, epochs=16, run_dir=tmp_path / "run")
    history = read_history(tmp_path / "run" / "events.jsonl")
    assert [(e["old"], e["new"]) for e in history.memory] == [(8, 4), (4, 8)]
    assert "Out of memory" in {fact.name for fact in details(history)}
    del history.memory[0]
    assert "Out of memory" not in {fact.name for fact in details(history)}


def test_evaluation_halves_its_passes() -> None:
    """1,500 samples in chunks of 1,024 and 476, in passes that fit: the mean of all, each once."""
    x, y = X.repeat(8, 1)[:1500], Y.repeat(8)[:1500]
    narrow, wide = Narrow(100, "everywhere"), Narrow(10_000)
    found, expected = (evaluate(model, F.cross_entropy, as_source((x, y)), CPU) for model in (narrow, wide))
    assert found == pytest.approx(expected, rel=1e-12)
    assert wide.passes == [1024, 476] and narrow.passes[:5] == [1024, 512, 256, 128, 64]
    assert sum(n for n in narrow.passes if n <= 100) == 1500
    passes = Narrow(10_000)
    evaluate(passes, F.cross_entropy, as_source((x, y)), CPU, limit=ForwardLimit(300))
    assert passes.passes == [300, 300, 300, 124, 300, 176]
    with pytest.raises(OutOfMemoryError, match="a single sample"):
        evaluate(Narrow(0, "everywhere"), F.cross_entropy, as_source((x, y)), CPU)


def test_evaluation_takes_larger_passes_again() -> None:
    source, limit = as_source((X.repeat(102, 1), Y.repeat(102))), ForwardLimit(1024)
    evaluate(Narrow(512, "everywhere"), F.cross_entropy, as_source((X.repeat(6, 1), Y.repeat(6))), CPU, limit=limit)
    assert limit.now == 512
    model = Narrow(1024, "everywhere")
    for _ in range(6):
        evaluate(model, F.cross_entropy, source, CPU, limit=limit)
    assert limit.now == 1024 and model.passes.count(512) > model.passes.count(1024) > 0


class Evaluated(Narrow):
    """Keeps the sizes of its passes in evaluation by themselves; these run out of memory above `most_evaluated`."""

    def __init__(self, most: int, most_evaluated: int) -> None:
        super().__init__(most)
        self.most_evaluated = most_evaluated
        self.evaluated: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            self.evaluated.append(len(x))
            if len(x) > self.most_evaluated:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return super().forward(x)


def test_evaluation_has_a_limit_of_its_own(tmp_path: Path, no_report: None) -> None:
    """It is not bound to that of training, and runs out once in a run, not at each evaluation."""
    free, bound, given = Evaluated(13, 10_000), Evaluated(1000, 60), Evaluated(1000, 10_000)
    trained(free, valid=(X, Y))
    assert set(free.evaluated) == {2, 200}
    trained(bound, valid=(X, Y), run_dir=tmp_path / "run")
    assert [n for n in bound.evaluated if n != 2] == [200, 100, *[50] * 12]
    bound.evaluated.clear()
    trained(bound, valid=(X, Y), run_dir=tmp_path / "run", epochs=4, resume=True)
    assert set(bound.evaluated) == {2, 50}
    trained(given, valid=(X, Y), micro_batch=40)
    assert set(given.evaluated) == {2, 40}


def test_batch_norm_is_refreshed_in_passes_that_fit() -> None:
    source = as_source((X, Y))
    narrow, small = (Narrow(most, "everywhere", nn.BatchNorm1d(8), nn.Dropout(0.3)) for most in (60, 1000))
    torch.manual_seed(1)
    refresh_batch_norm(narrow, source, CPU)  # 200, 100, then 50 at a time
    torch.manual_seed(1)
    refresh_batch_norm(small, source, CPU, ForwardLimit(50))
    require_same(narrow, small, exactly=True)
    assert narrow.layers[1].num_batches_tracked == 4 and narrow.layers[1].momentum == 0.1
    with pytest.raises(OutOfMemoryError, match="over 2 samples"):
        refresh_batch_norm(Narrow(0, "everywhere", nn.BatchNorm1d(8)), source, CPU)


def test_what_training_reads_ahead_is_left_alone_by_the_statistics() -> None:
    class Blocks(TensorSource):
        block_ends, window = np.array([100, 200]), 1

        def prefetch(self, indices: Tensor) -> None:
            raise AssertionError("announced")

    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)).double()
    refresh_batch_norm(model, Blocks(X, Y), CPU)
    assert model[1].num_batches_tracked == 1


def test_a_run_is_refused_where_the_first_two_samples_do_not_fit() -> None:
    """In the model, in the loss, or while they are brought to the device: memory, not what these make of it."""

    def loss(output: Tensor, target: Tensor) -> Tensor:
        raise error("CUDA out of memory. Tried to allocate")

    class Late:
        def to(self, device: torch.device) -> Tensor:
            return loss(X, Y)

    class Elsewhere(TensorSource):
        def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
            return Late(), self.y[indices]  # type: ignore[return-value]

    words = "over 2 samples on cpu, on which model and loss are tried before training"
    for error in (torch.OutOfMemoryError, MemoryError):
        for model, given, source in (
            (Narrow(1, "everywhere"), F.cross_entropy, (X, Y)),
            (Narrow(1000), loss, (X, Y)),
            (Narrow(1000), F.cross_entropy, Elsewhere(X, Y)),
        ):
            model.error = error
            with pytest.raises(OutOfMemoryError, match=words):
                fit(model, source, given, batch_size=8, lr=0.1, epochs=1, progress=False)


def test_a_whole_run_in_little_memory() -> None:
    """Training, evaluation, the statistics of BatchNorm for the average, and the test data."""
    model = Narrow(20, "everywhere", nn.BatchNorm1d(8))
    batch = "sweet-spot(floor=3, ceiling=8, least_steps=1)"  # so few steps that no larger pass is tried again
    run = trained(model, batch_size=batch, lr="auto", valid=(X, Y), test=(X, Y))
    assert run.test is not None and run.best
    assert sum(n > 20 for n in model.passes) < 10


def begun(limit: ForwardLimit, batches: int, wanted: int = 10_000) -> list[int]:
    """The limit at each of so many batches."""
    seen = []
    for _ in range(batches):
        limit.begin(wanted)
        seen.append(limit.now)
    return seen


def test_passes_grow_back() -> None:
    """Larger passes that hold are made larger again after as many batches, not after ever more."""
    limit = ForwardLimit(64)
    limit.halve(50)
    seen = begun(limit, 3 * CALM_STEPS)
    assert seen[0] == 25 and seen[CALM_STEPS - 1] == 25 and seen[CALM_STEPS] == 50 and seen[-1] == 64
    limit = ForwardLimit(4096)
    limit.halve(3)
    assert begun(limit, 11 * (CALM_STEPS + 1)).index(4096) == 11 * (CALM_STEPS + 1) - 1


def test_what_was_too_early_is_tried_again_after_twice_the_time() -> None:
    limit = ForwardLimit(64)
    limit.halve(64)
    tried = []
    for step in range(8 * CALM_STEPS):
        limit.begin(64)
        if limit.now > 32:
            tried.append(step)
            limit.halve(64)
            assert limit.now == 32
    assert tried == [CALM_STEPS, 3 * CALM_STEPS + 1, 7 * CALM_STEPS + 2]
    # Once they have held as long as was waited for them, all is as before.
    held = 8 * CALM_STEPS + 1
    assert begun(limit, 3 * held)[-1] == 64
    limit.halve(64)
    assert begun(limit, CALM_STEPS + 1)[-2:] == [32, 64]


def test_no_larger_passes_are_tried_than_batches_want() -> None:
    limit = ForwardLimit(64)
    limit.halve(8)
    assert set(begun(limit, 5 * CALM_STEPS, wanted=4)) == {4}
    assert begun(limit, 5 * CALM_STEPS, wanted=8)[CALM_STEPS - 1 :: CALM_STEPS] == [4, 8, 8, 8, 8]


@pytest.mark.parametrize("wanted", [8, 64])
def test_the_limit_goes_on_where_it_was(wanted: int) -> None:
    """At any batch: before larger passes, while they are tried, after they have failed."""
    for failed in range(1, 5 * CALM_STEPS, 37):
        straight, before = ForwardLimit(64), ForwardLimit(64)
        for limit in (straight, before):
            limit.halve(8)
            begun(limit, failed, wanted)
            limit.halve(limit.now)
            begun(limit, CALM_STEPS, wanted)
        after = ForwardLimit(64)
        after.load_state_dict(before.state_dict())
        assert begun(after, 9 * CALM_STEPS, wanted) == begun(straight, 9 * CALM_STEPS, wanted)


def test_a_larger_micro_batch_holds_unless_memory_had_run_out(tmp_path: Path, no_report: None) -> None:
    for most, expected in ((1000, {50}), (13, {12, 13})):
        first, second = Narrow(most), Narrow(most)
        trained(first, epochs=1, micro_batch=25, run_dir=tmp_path / str(most))
        trained(second, micro_batch=50, run_dir=tmp_path / str(most), resume=True)
        assert 25 in first.passes and set(second.passes) - {2} == expected


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize(("most", "batch"), [(3, 5), (3, 7), (3, 33), (2, 16), (4, 9)])
def test_batch_norm_gets_no_single_sample(most: int, batch: int, where: str) -> None:
    """Halved until two fit; of an odd batch three, where they fit."""
    model = Narrow(most, where, nn.BatchNorm1d(8))
    run = trained(model, batch_size=batch, epochs=1)
    assert min(model.passes) == 2 and run.history[-1]["epoch"] == 1


def test_batch_norm_ends_a_run_in_words() -> None:
    for most, batch, over in ((2, 5, 3), (2, 33, 3), (1, 8, 2), (1, 5, 2)):
        words = rf"over {over} samples on cpu, .* BatchNorm cannot take one sample alone .* micro_batch=1"
        with pytest.raises(OutOfMemoryError, match=words):
            trained(Narrow(most, "forward", nn.BatchNorm1d(8)), batch_size=batch)
    # Where it can, passes of one are a matter of asking; and where it does not train they are a matter of course.
    trained(Narrow(1, "forward", nn.Unflatten(1, (2, 4)), nn.BatchNorm1d(2), nn.Flatten()), batch_size=5, micro_batch=1)
    frozen = Narrow(1, "forward", nn.BatchNorm1d(8)).eval()
    auto = AutoBatch(frozen, torch.optim.SGD(frozen.parameters(), 0.5), (X, Y), batch_size=5, epochs=1)
    for x, y in auto:
        try:
            auto.backward(F.cross_entropy(frozen(x), y))
        except RuntimeError as error:
            auto.handle_oom(error)
            continue
        auto.step()
    assert auto.samples == 200 and auto.forward_limit == 1
