"""Metrics of the user's own: over whole data sets, as targets, in everything that is written."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rightbatch import InputError, OutOfMemoryError, fit
from rightbatch.data import as_source
from rightbatch.fitting import Run
from rightbatch.fitting.best import BestIterate
from rightbatch.fitting.evaluation import evaluate
from rightbatch.fitting.metrics import Metrics
from rightbatch.fitting.precision import Precision
from rightbatch.fitting.stopping import Budget
from rightbatch.loop.memory.forward_limit import ForwardLimit
from rightbatch.report import Progress, write_report

N = 150
X = torch.randn(N, 2, generator=torch.Generator().manual_seed(5))
Y = (X[:, 0] > 0.8).long()
CPU = torch.device("cpu")


def f1(outputs: Tensor, targets: Tensor) -> float:
    found = outputs.argmax(1)
    right = int(((found == 1) & (targets == 1)).sum())
    return 2 * right / max(1, int((found == 1).sum()) + int((targets == 1).sum()))


class F1:
    """The protocol of torchmetrics, and what it was called for."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.right = self.marked = 0
        self.device: Any = None

    def to(self, device: Any) -> "F1":
        self.device = device
        return self

    def reset(self) -> None:
        self.calls.append("reset")
        self.right = self.marked = 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.calls.append(f"update {len(outputs)}")
        found = outputs.argmax(1)
        self.right += int(((found == 1) & (targets == 1)).sum())
        self.marked += int((found == 1).sum()) + int((targets == 1).sum())

    def compute(self) -> Tensor:
        self.calls.append("compute")
        return torch.tensor(2 * self.right / max(1, self.marked))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(2, 2)


def trained(model: nn.Module | None = None, **settings: Any) -> Run:
    settings = {"batch_size": 15, "lr": 0.5, "epochs": 4, "progress": False, "valid": (X, Y), **settings}
    return fit(model or network(), (X, Y), **settings)


def test_over_the_whole_set_and_not_a_mean_over_batches() -> None:
    model, counted = network(), F1()
    metrics = Metrics({"f1": f1, "counted": counted})
    found = evaluate(model, F.cross_entropy, as_source((X, Y)), CPU, limit=ForwardLimit(40), metrics=metrics)
    with torch.no_grad():
        output = model(X)
    parts = [f1(output[i : i + 40], Y[i : i + 40]) for i in range(0, N, 40)]
    assert found["f1"] == f1(output, Y) == pytest.approx(found["counted"])
    assert found["f1"] != pytest.approx(sum(parts) / len(parts), rel=1e-2)
    assert counted.calls == ["reset", "update 40", "update 40", "update 40", "update 30", "compute"]
    assert counted.device == CPU


class Limited(nn.Module):
    """Runs out of memory above a number of samples."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.layer, self.most = network(), most

    def forward(self, x: Tensor) -> Any:
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.layer(x)


def test_passes_that_ran_out_of_memory_count_once() -> None:
    metrics = Metrics({"f1": f1, "counted": F1(), "size": lambda o, y: len(o)})
    found = evaluate(Limited(20), F.cross_entropy, as_source((X, Y)), CPU, metrics=metrics)
    assert found["size"] == N
    assert found["f1"] == pytest.approx(found["counted"])


def test_a_metric_that_runs_out_of_memory_ends_the_run() -> None:
    def greedy(outputs: Tensor, targets: Tensor) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(OutOfMemoryError, match="in the metric 'greedy'"):
        evaluate(network(), F.cross_entropy, as_source((X, Y)), CPU, metrics=Metrics({"greedy": greedy}))


def test_outputs_of_low_precision_become_float32() -> None:
    seen: list[torch.dtype] = []

    def kinds(outputs: Tensor, targets: Tensor) -> float:
        seen.extend((outputs.dtype, targets.dtype))
        return 0.0

    evaluate(
        network(),
        F.cross_entropy,
        as_source((X, Y)),
        CPU,
        precision=Precision("bf16", CPU),
        metrics=Metrics({"k": kinds}),
    )
    assert seen == [torch.float32, torch.int64]


def test_everywhere_it_is_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(metrics={"f1": f1, "counted": F1()}, test=(X, Y), run_dir=tmp_path / "run", progress=True)
    rows = [row for row in run.history if "valid_loss" in row]
    assert len(rows) == 4 and all(row["f1"] == pytest.approx(row["counted"]) for row in rows)
    with torch.no_grad():
        assert run.best["f1"] == run.test["f1"] == f1(run.model(X), Y)  # type: ignore[index]
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert [e["f1"] for e in events if e["kind"] == "evaluation"] == [row["f1"] for row in rows]
    assert events[0]["lower_is_better"] == {"f1": False, "counted": False}
    assert [e["test"]["f1"] for e in events if e["kind"] == "stop"] == [run.test["f1"]]  # type: ignore[index]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["metrics"] == ["f1", "counted"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "best validation f1" in page and "f1 over samples" in page and "Loss, accuracy, f1 and counted" in page
    shown = capsys.readouterr().err
    assert f"f1 {rows[0]['f1']:.4g}" in shown and "; test loss" in shown


@pytest.mark.parametrize(
    ("stop_at", "values", "stopped", "best"),
    [
        ({"m": 0.5}, [0.1, 0.6, 0.2], "target reached: m 0.6", 0.6),
        ({"m": ">= 0.5"}, [0.1, 0.6], "target reached: m 0.6", 0.6),
        ({"m": "<=0.2"}, [0.5, 0.15], "target reached: m 0.15", 0.15),
        ({"m_error": 0.2}, [0.5, 0.15], "target reached: m_error 0.15", 0.15),
        ({"m_loss": 0.2}, [0.5, 0.15], "target reached: m_loss 0.15", 0.15),
        ({"m_loss": ">= 0.4"}, [0.3, 0.5], "target reached: m_loss 0.5", 0.5),
        ({"m": 0.9}, [0.1, 0.6, math.nan, 0.2], "4 epochs are done", 0.6),
        ({"m": "<= 0"}, [0.5, 0.15, math.inf, 0.2], "4 epochs are done", 0.15),
    ],
)
def test_targets_and_what_is_best(stop_at: dict[str, Any], values: list[float], stopped: str, best: float) -> None:
    (name,) = stop_at
    given = iter([0.0, *values])  # the first call is the trial
    run = trained(metrics={name: lambda outputs, targets: next(given)}, stop_at=stop_at, epochs=4)
    assert run.stopped == stopped
    assert run.best[name] == best
    assert all(math.isnan(row[name]) for row in run.history if name in row and not math.isfinite(row[name]))


def test_what_torchmetrics_says_of_itself() -> None:
    counted = F1()
    counted.higher_is_better = False  # type: ignore[attr-defined]
    metrics = Metrics({"a": counted, "b": f1, "error": f1})
    assert metrics.lower_is_better == {"a": True, "b": False, "error": True}


def test_the_loss_decides_unless_a_metric_is_the_only_target() -> None:
    model = network()
    rows = [{"valid_loss": 1.0, "f1": 0.2}, {"valid_loss": 2.0, "f1": 0.9}, {"valid_loss": 0.5, "f1": 0.1}]
    for stop_at, expected in [
        (None, [True, False, True]),
        ({"f1": 0.95}, [True, True, False]),
        ({"f1": 0.95, "valid_loss": 0.1}, [True, False, True]),
    ]:
        best = BestIterate(Budget(stop_at=stop_at, metrics={"f1": False}))
        assert [best.offer(row, model) for row in rows] == expected


def test_patience_counts_what_is_best() -> None:
    given = iter([0.0, 0.3, 0.2, 0.1])
    run = trained(metrics={"m": lambda o, y: next(given)}, stop_at={"m": 0.9}, patience=2, epochs=9)
    assert run.stopped == "no improvement in 2 evaluations" and run.best["m"] == 0.3
    assert "2 evaluations without a better m" in Budget(stop_at={"m": 0.9}, patience=2, metrics={"m": False}).describe()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no mapping": ({"metrics": [f1]}, r"metrics must be a mapping such as \{'f1': function\}"),
    "taken": ({"metrics": {"valid_loss": f1}}, "'valid_loss' has the name of a quantity that is recorded anyway"),
    "taken by a test": ({"metrics": {"accuracy": f1}}, "recorded anyway: choose another name"),
    "class": ({"metrics": {"f1": F1}}, r"'f1' is the class F1: pass an instance, F1\(...\)"),
    "number": ({"metrics": {"f1": 0.5}}, "must be a function .* or an object with reset"),
    "name": ({"metrics": {3: f1}}, "name of a metric must be text, got 3"),
    "nothing to evaluate on": ({"metrics": {"f1": f1}, "valid": None}, "give valid= or test="),
    "tensor": ({"metrics": {"m": lambda o, y: o.mean(0)}}, r"'m' returned a Tensor of shape \(2,\): return one number"),
    "dict": ({"metrics": {"m": lambda o, y: {"f1": 1.0}}}, "'m' returned a dict"),
    "None": ({"metrics": {"m": lambda o, y: None}}, "'m' returned a NoneType"),
    "unknown target": ({"metrics": {"f1": f1}, "stop_at": {"f2": 0.5}}, "knows valid_loss, valid_accuracy and f1 with"),
    "target no number": ({"metrics": {"f1": f1}, "stop_at": {"f1": "much"}}, "as in '<= 20', got 'f1': 'much'"),
    "target of no number": ({"metrics": {"f1": f1}, "stop_at": {"f1": "<= x"}}, "got 'f1': '<= x'"),
    "worse": ({"stop_at": {"valid_loss": ">= 0.5"}}, "reached by getting worse"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str, tmp_path: Path) -> None:
    settings, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        trained(run_dir=tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1, 1.0), (True, 1.0), (torch.tensor([0.25]), 0.25), (math.inf, None), (torch.tensor(math.nan), None)],
)
def test_numbers(value: Any, expected: float | None) -> None:
    found = trained(metrics={"m": lambda o, y: value}, epochs=1).best["m"]
    assert found == expected or (expected is None and math.isnan(found))


def test_errors_of_a_metric_name_it() -> None:
    """On the few samples of the trial they are not raised: one class alone may be too few for a metric."""

    def picky(outputs: Tensor, targets: Tensor) -> float:
        raise ValueError("needs two classes")

    with pytest.raises(ValueError, match="needs two classes") as caught:
        trained(metrics={"picky": picky})
    assert caught.value.__notes__ == ["raised by the metric 'picky'"]


def test_a_resumed_run_may_have_other_metrics(no_report: None, tmp_path: Path) -> None:
    trained(metrics={"f1": f1}, run_dir=tmp_path / "run", epochs=2)
    run = trained(metrics={"g": f1}, stop_at={"g": 2.0}, run_dir=tmp_path / "run", epochs=4, resume=True)
    assert [sorted({"f1", "g"} & row.keys()) for row in run.history if "valid_loss" in row] == [["f1"]] * 2 + [
        ["g"]
    ] * 2
    assert run.best["g"] == max(row["g"] for row in run.history if "g" in row)


def test_the_live_view_has_it() -> None:
    from rightbatch.report.terminal import _cells

    progress = Progress(False)
    progress.evaluation({"valid_loss": 0.5, "valid_accuracy": None, "best": True, "f1": 0.9123})
    assert ("f1", "0.9123") in _cells(progress)


def test_the_report_of_a_metric_that_falls(tmp_path: Path) -> None:
    values = iter([0.0, 30.0, 20.0, 25.0, 22.0])
    trained(
        metrics={"perplexity <b>": lambda o, y: next(values)},
        stop_at={"perplexity <b>": "<= 1"},
        run_dir=tmp_path / "run",
    )
    page = write_report(tmp_path / "run").read_text()
    assert "perplexity &lt;b&gt;" in page and "<b>&" not in page and "perplexity <b>" not in page


@pytest.mark.parametrize("kind", ["BinaryF1Score", "MeanSquaredError"])
def test_torchmetrics_itself(kind: str) -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    if kind == "BinaryF1Score":
        metric: Any = torchmetrics.F1Score(task="multiclass", num_classes=2, average=None)
        with pytest.raises(InputError, match=r"shape \(2,\)"):
            trained(metrics={"f1": metric})
        run = trained(
            metrics={"f1": torchmetrics.F1Score(task="multiclass", num_classes=2, average="macro"), "own": f1}
        )
        assert 0 <= run.best["f1"] <= 1
        return
    metric = torchmetrics.MeanSquaredError()
    y = X.sum(1)
    model = nn.Sequential(nn.Linear(2, 1), nn.Flatten(0))
    run = fit(model, (X, y), valid=(X, y), metrics={"mse": metric}, stop_at={"mse": 1e-9}, epochs=2, progress=False)
    assert run.best["mse"] == pytest.approx(run.best["valid_loss"], rel=1e-5)
    assert Metrics({"mse": metric}).lower_is_better == {"mse": True}
