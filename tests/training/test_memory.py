"""Memory that runs out: the same batches in smaller passes, the same training but for rounding."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rightbatch import AutoBatch, fit
from rightbatch.record import verify_ledger
from rightbatch.training.memory import CALM_STEPS, ForwardLimit

torch.manual_seed(0)
X = torch.randn(200, 4, dtype=torch.float64)
Y = (X[:, 0] * X[:, 1] > 0).long()


class Narrow(nn.Module):
    """Runs out of memory above `most` examples, in the forward or in the backward pass."""

    def __init__(self, most: int, where: str = "forward") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).double()
        self.most, self.where = most, where
        self.passes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.passes.append(len(x))
        out: Tensor = self.layers(x)
        if len(x) > self.most and torch.is_grad_enabled():
            if self.where == "forward":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
            out.register_hook(self.run_out)
        return out

    def run_out(self, gradient: Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")


def trained(model: Narrow, **settings: Any) -> Any:
    settings = {"batch": 50, "step": 0.5, "epochs": 3, "progress": False, "loss": F.cross_entropy, **settings}
    return fit(model, (X, Y), **settings)


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_fit_halves_and_trains_the_same(where: str, tmp_path: Path) -> None:
    wide, narrow = Narrow(1000), Narrow(13, where)
    expected, run = trained(wide), trained(narrow, run_dir=tmp_path / "run")
    assert [row["batch_size"] for row in run.history] == [row["batch_size"] for row in expected.history] == [50] * 12
    for a, b in zip(wide.parameters(), narrow.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)
    assert verify_ledger(tmp_path / "run" / "ledger.txt", 200).ok
    # 50 fails, 25 fails, the four passes of 12 or 13 fit from then on.
    training = [n for n in narrow.passes if n != 1]
    assert sum(n > 13 for n in training[:-1]) <= 4


@pytest.mark.parametrize(("batch", "step"), [("auto", "auto"), ("big-batch", "armijo"), ("big-batch", "auto")])
def test_rules_that_measure_enlarge_and_search(batch: str, step: str, tmp_path: Path) -> None:
    run = trained(Narrow(9), batch=batch, step=step, run_dir=tmp_path / "run")
    report = verify_ledger(tmp_path / "run" / "ledger.txt", 200)
    assert report.ok and report.complete_epochs == 3 and run.history


def test_a_loop_of_ones_own() -> None:
    model = Narrow(13)
    auto = AutoBatch(model, torch.optim.SGD(model.parameters(), 0.5), (X, Y), batch=50, epochs=3)
    for x, y in auto:
        try:
            auto.backward(F.cross_entropy(model(x), y))
        except torch.OutOfMemoryError as error:
            auto.halve(error)
            continue
        auto.step()
    expected = Narrow(1000)
    trained(expected)
    for a, b in zip(expected.parameters(), model.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


def test_what_halving_cannot_help() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        trained(Narrow(0))

    class Wrong(Narrow):
        def forward(self, x: Tensor) -> Tensor:
            if len(self.passes) > 4:
                raise RuntimeError("shapes do not match")
            return super().forward(x)

    with pytest.raises(RuntimeError, match="shapes do not match"):
        trained(Wrong(1000))


def test_passes_grow_back() -> None:
    limit = ForwardLimit(64)
    limit.halve(50)
    seen = []
    for _ in range(8 * CALM_STEPS):
        limit.begin()
        seen.append(limit.now)
    assert seen[0] == 25 and seen[CALM_STEPS - 1] == 25 and seen[CALM_STEPS] == 50 and seen[-1] == 64
    # What was too early is tried again after twice the time.
    limit = ForwardLimit(64)
    limit.halve(64)
    tried = []
    for step in range(8 * CALM_STEPS):
        limit.begin()
        if limit.now > 32:
            tried.append(step)
            limit.halve(64)
    assert len(tried) == 3 and tried[1] - tried[0] > 2 * CALM_STEPS - 2
