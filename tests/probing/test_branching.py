"""The critical batch by branching: where theory knows it, without a trace, and as a schedule."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rightbatch import InputError
from rightbatch.data import blobs
from rightbatch.probing import CriticalBatch, critical_batch, warm_up
from rightbatch.rules.batch_size import Piecewise


class Mean(nn.Module):
    """Estimates a mean: loss ½‖w - x‖² for each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.full((4,), 3.0, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.w - x


def half_square(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().sum(1).mean() / 2


def points(std: float, n: int = 512) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return std * torch.randn(n, 4, generator=generator, dtype=torch.float64), torch.zeros(n, 4, dtype=torch.float64)


def branch_losses(x: Tensor, sizes: list[int], rates: list[float], window: int, order: list[int]) -> list[float]:
    """The slow twin: gradient descent on the mean, w ← w - η(w - x̄_B), the loss over the second half of the window."""
    losses = []
    for size, rate in zip(sizes, rates, strict=True):
        w, total, count = torch.full((4,), 3.0, dtype=torch.float64), 0.0, 0
        for begin in range(0, window, size):
            rows = x[order[begin : begin + size]]
            if begin + size > window / 2:
                total, count = total + float((w - rows).square().sum() / 2), count + len(rows)
            w = w - rate * (w - rows.mean(0))
        losses.append(total / count)
    return losses


@pytest.mark.parametrize(("scaling", "power"), [("linear", 1.0), ("square-root", 0.5)])
def test_branches_are_the_runs_they_say(scaling: str, power: float) -> None:
    from rightbatch.data import Order

    x, y = points(1.0)
    model = Mean()
    found = critical_batch(
        model, torch.optim.SGD(model.parameters(), lr=0.05), (x, y), 8, half_square,
        factors=(1, 2, 4), window_samples=256, tolerance=1e9, scaling=scaling,  # type: ignore[arg-type]
    )  # fmt: skip
    assert [branch.batch_size for branch in found.branches] == [8, 16, 32]
    rates = [0.05 * k**power for k in (1, 2, 4)]
    assert [branch.lr for branch in found.branches] == pytest.approx(rates)
    order = [int(i) for i in Order(512, 0).indices(0, 0, 256)]
    assert [branch.loss for branch in found.branches] == pytest.approx(branch_losses(x, [8, 16, 32], rates, 256, order))
    assert found.at_least and found.batch_size == 32


def test_without_noise_small_batches_are_critical_and_with_it_larger_ones() -> None:
    """η·k = 1 is a Newton step, beyond 2 it diverges: without noise k = 32 overshoots. With noise nothing is lost."""
    model = Mean()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    settings = {"factors": (1, 2, 4, 8, 32), "window_samples": 512, "tolerance": 0.02}
    overshot = critical_batch(model, optimizer, points(1e-3), 2, half_square, **settings)  # type: ignore[arg-type]
    assert overshot.batch_size <= 16 and not overshot.at_least
    slow = torch.optim.SGD(model.parameters(), lr=0.01)
    gentle = critical_batch(model, slow, points(3.0), 2, half_square, **settings)  # type: ignore[arg-type]
    assert gentle.batch_size == 64 and gentle.at_least


def test_it_leaves_no_trace_and_takes_the_optimizer_as_it_is() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    x, y = blobs(128).fetch(torch.arange(128))
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict(), [p.grad for p in model.parameters()]))
    random = torch.get_rng_state()
    found = critical_batch(model.eval(), optimizer, (x, y), 4, factors=(1, 2, 4, 64), window_samples=96, samples=384)
    after = (model.state_dict(), optimizer.state_dict(), [p.grad for p in model.parameters()])
    assert repr(before) == repr(after) and torch.equal(random, torch.get_rng_state()) and not model.training
    assert found.samples == 384 and found.window_samples == 96
    assert all(branch.batch_size <= 128 for branch in found.branches)
    assert found.branches[1].lr == pytest.approx(0.01 * math.sqrt(2))
    again = critical_batch(model, optimizer, (x, y), 4, factors=(1, 2, 4, 64), window_samples=96, samples=384)
    assert again == found and f"{found.batch_size:,} samples after 384" in str(found)


def estimate(samples: int, batch_size: int) -> CriticalBatch:
    return CriticalBatch(batch_size, False, samples, 1000, 0.01, ())


def test_the_schedule_doubles_where_an_estimate_allows_it() -> None:
    rule = warm_up(32, [estimate(0, 40), estimate(1000, 63), estimate(5000, 300), estimate(9000, 200)])
    assert rule == Piecewise(((0, 32), (5000, 256)))
    assert warm_up(8, [estimate(0, 16)]) == Piecewise(((0, 16),))
    with pytest.raises(InputError, match="must increase"):
        warm_up(8, [estimate(5, 16), estimate(0, 16)])


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"factors": (2, 4)}, "start with 1"),
        ({"factors": 4}, "whole numbers"),
        ({"batch_size": 1000}, "only 512 samples"),
        ({"window_samples": 10}, "window_samples"),
        ({"scaling": "cubic"}, "scaling"),
        ({"tolerance": -1}, "tolerance"),
    ],
)
def test_refusals(settings: dict[str, object], complaint: str) -> None:
    model = Mean()
    with pytest.raises(InputError, match=complaint):
        critical_batch(
            model,
            torch.optim.SGD(model.parameters(), lr=0.1),
            points(1.0),
            loss=half_square,
            **{"batch_size": 8, **settings},  # type: ignore[arg-type]
        )


def test_a_first_branch_that_diverges_is_an_error() -> None:
    model = Mean()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e200)
    with pytest.raises(InputError, match="diverges at the initial batch size 8"):
        critical_batch(model, optimizer, points(1.0), 8, half_square, window_samples=1024)


def test_memory_that_runs_out_halves_the_passes_of_a_branch() -> None:
    x, y = points(1.0)

    class Narrow(Mean):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 5:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
            return super().forward(x)

    found = [
        critical_batch(
            model, torch.optim.SGD(model.parameters(), lr=0.05), (x, y), 8, half_square, factors=(1, 2),
            window_samples=64,
        )
        for model in (Narrow(), Mean())
    ]  # fmt: skip
    losses = [[branch.loss for branch in each.branches] for each in found]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
