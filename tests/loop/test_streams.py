"""Training on a stream: every rule has what it needs, and each batch is tagged with the decision it was cut under."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from rightbatch import AutoBatch, fit, probe
from rightbatch.data import as_stream, with_workers
from rightbatch.errors import DataError
from rightbatch.fitting.evaluation import refresh_batch_norm
from rightbatch.record import verify_ledger
from rightbatch.record.events import read_events

torch.manual_seed(0)
X = torch.randn(200, 4, dtype=torch.float64)
Y = (X[:, 0] * X[:, 1] > 0).long()


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(X, Y, strict=True)


def model(*layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), *layers, nn.Tanh(), nn.Linear(8, 2)).double()


def test_a_fixed_batch_is_the_plain_loop() -> None:
    ours, plain = model(), model()
    fit(ours, as_stream(Stream(), 200), batch_size=30, lr=0.5, epochs=2, progress=False)
    for _ in range(2):
        for start in range(0, 200, 30):
            rows = slice(start, min(start + 30, 200))
            F.cross_entropy(plain(X[rows]), Y[rows]).backward()
            with torch.no_grad():
                for parameter in plain.parameters():
                    parameter -= 0.5 * parameter.grad
                    parameter.grad = None
    torch.testing.assert_close(ours.state_dict(), plain.state_dict(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("batch", "step"), [("auto", "auto"), ("big-batch(initial=8)", "armijo"), ("sweet-spot", "auto"), (16, "armijo")]
)
def test_rules_that_measure_enlarge_time_and_search(batch: Any, step: str, tmp_path: Path, no_report: None) -> None:
    settings: dict[str, Any] = {"batch_size": batch, "lr": step, "epochs": 3, "valid": (X[:50], Y[:50])}
    run = fit(model(nn.BatchNorm1d(8)), as_stream(Stream(), 190), run_dir=tmp_path / "run", progress=False, **settings)
    report = verify_ledger(tmp_path / "run" / "ledger.txt", 190)
    assert report.ok and report.complete_epochs == 3 and run.history


def test_memory_that_runs_out_begins_the_batch_anew() -> None:
    class Narrow(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 13:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
            out: Tensor = super().forward(x)
            return out

    narrow, wide = Narrow(*model()), model()
    for each in (narrow, wide):
        fit(each, as_stream(Stream(), 200), batch_size=50, lr=0.5, epochs=2, progress=False)
    torch.testing.assert_close(narrow.state_dict(), wide.state_dict(), rtol=1e-10, atol=1e-12)


def test_statistics_of_batch_norm_are_those_of_the_first_samples() -> None:
    source = as_stream(Stream(), 200)
    auto = AutoBatch(model(), None, source, batch_size=60, lr=0.1)
    for x, y in auto:
        auto.backward(F.cross_entropy(auto.model(x), y))
        auto.step()
    layer = nn.BatchNorm1d(4).double()
    refresh_batch_norm(layer, source, torch.device("cpu"))
    assert len(source.sample()) == 200
    torch.testing.assert_close(layer.running_mean, X.mean(0))
    torch.testing.assert_close(layer.running_var, X.var(0))


def test_a_loop_left_early_begins_with_the_first_sample_no_step_has_used() -> None:
    auto = AutoBatch(model(), None, as_stream(Stream(), 200), batch_size=40, lr=0.1, micro_batch=10)
    seen = []
    for x, y in auto:
        auto.backward(F.cross_entropy(auto.model(x), y))
        if auto.step():
            break
    next(iter(auto))  # a quarter of a batch that no step will use
    for x, y in auto:
        seen.append(x)
        auto.backward(F.cross_entropy(auto.model(x), y))
        auto.step()
    assert torch.equal(torch.cat(seen), X[40:])


def test_one_stream_trains_one_model_after_the_other() -> None:
    source = as_stream(Stream(), 150)
    first, second = model(), model()
    for each in (first, second):
        fit(each, source, batch_size=30, lr=0.5, epochs=1, progress=False)
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))


@pytest.mark.parametrize(
    "use",
    [
        lambda source: probe(model(), source),
        lambda source: fit(model(), source, valid=0.1, epochs=1),
        lambda source: fit(model(), (X, Y), valid=source, epochs=1),
        lambda source: fit(model(), (X, Y), test=source, epochs=1),
    ],
)
def test_refused(use: Callable[[Any], object]) -> None:
    with pytest.raises(DataError, match=r"a stream cannot be (probed|split|evaluated on).*write_shards"):
        use(as_stream(Stream(), 200))


class Items(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 200

    def __getitem__(self, index: int) -> Any:
        return X[index], Y[index]


@pytest.mark.parametrize(
    "batch",
    [
        "growth(initial=8, last=64, over_epochs=3)",
        "big-batch(initial=8)",
        "gradient-noise-scale(initial=8, max_size=60)",
    ],
)
@pytest.mark.parametrize("data", ["workers", "stream"])
def test_each_micro_batch_is_tagged_with_the_decision_it_was_cut_under(
    batch: str, data: str, tmp_path: Path, no_report: None
) -> None:
    """Of what workers and streams have fetched ahead nothing is cut by an older decision than the tag says."""
    source = with_workers(Items(), 2) if data == "workers" else as_stream(Stream(), 200)
    lr = "noise-scaled(lr=0.05)" if batch.startswith("gradient") else 0.1
    noise = "micro-batch(every=3)" if "noise" in batch else None
    run = fit(
        model(), source, batch_size=batch, lr=lr, epochs=4, noise=noise,
        run_dir=tmp_path / "run", progress=False,
    )  # fmt: skip
    events = list(read_events(tmp_path / "run" / "events.jsonl"))
    decided = {e["step"]: e["new"] for e in events if e["kind"] == "decision" and e["what"] == "batch_size"}
    rows = [row for row in run.history if "train_loss" in row]
    assert len({row["decided_step"] for row in rows}) > 1
    for row in rows:
        before = max(step for step in decided if step < row["step"])
        grown = row["decided_step"] == row["step"]  # in the midst of it, by as much as the rule then wanted
        assert grown or (row["decided_step"] == before and row["batch_size"] <= decided[before] + 1)
        assert not grown or "big-batch" in batch


def test_the_tag_is_at_hand_with_the_micro_batch_and_survives_saving() -> None:
    def begun() -> AutoBatch:
        return AutoBatch(
            model(),
            None,
            (X, Y),
            batch_size="growth(initial=8, last=64, over_epochs=3)",
            lr=0.1,
            epochs=400,
            micro_batch=8,
        )

    auto, tags = begun(), []
    for x, y in auto:
        tags.append((auto.decided_step, auto.batch_size))
        auto.backward(F.cross_entropy(auto.model(x), y))
        if auto.step() and auto.batch_size > 8:
            break
    assert set(tags) == {(0, 8)}
    next(iter(auto))
    assert auto.decided_step == auto.steps > 0
    again = begun()
    again.load_state_dict(auto.state_dict())
    assert again.decided_step == auto.decided_step
