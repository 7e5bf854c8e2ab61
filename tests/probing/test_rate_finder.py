"""The learning-rate range test: a quadratic with a known limit, suggestions read off by hand, no trace."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import rightbatch
from rightbatch.errors import InputError, UnsupportedError
from rightbatch.probing import RateCurve, find_lr


def line(n: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 4, generator=generator)
    return x, x @ torch.ones(4, 1)


def test_it_stops_soon_after_the_largest_stable_rate_of_a_quadratic() -> None:
    """Mean squared error: the Hessian is 2·XᵀX/n, and full-batch descent is stable below 2/λ₁."""
    x, y = line()
    torch.manual_seed(0)
    curve = find_lr(nn.Linear(4, 1), (x, y), batch_size=256, low=1e-4, high=100.0, smoothing=0.0)
    limit = 2 / float(torch.linalg.eigvalsh(2 * x.T @ x / len(x))[-1])
    assert limit < curve.rates[-1] < 10 * limit
    assert curve.smoothed == curve.losses
    for rate in (curve.valley, curve.steepest, curve.tenth_of_minimum):
        assert rate is not None and limit / 100 < rate < limit


def test_suggestions_by_hand() -> None:
    rates = tuple(10.0 ** np.arange(-5.0, 3.0))
    smoothed = (1.0, 0.99, 0.95, 0.6, 0.4, 0.39, 0.5, 2.0)
    curve = RateCurve(rates, smoothed, smoothed, 8, "SGD")
    assert curve.valley == pytest.approx(10**-2.5)  # it falls from 1e-5 to 1
    assert curve.steepest == pytest.approx(1e-2)  # (0.95 - 0.4)/2 a decade is the most, at 1e-2
    assert curve.tenth_of_minimum == pytest.approx(0.1)
    assert "valley" in str(curve) and "8 steps of SGD on 8 samples" in str(curve)
    flat = RateCurve(rates, (1.0,) * 8, (1.0,) * 8, 8, "SGD")
    assert flat.valley is None and flat.steepest is None and "no suggestion" in str(flat)


def test_smoothing_is_an_average_corrected_for_its_start() -> None:
    curve = find_lr(nn.Linear(4, 1), line(), batch_size=16, smoothing=0.8)
    weights = 0.8 ** np.arange(len(curve.losses))
    for t in (0, 1, 7):
        expected = (weights[: t + 1] * np.array(curve.losses[t::-1])).sum() / weights[: t + 1].sum()
        assert curve.smoothed[t] == pytest.approx(expected)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop, torch.optim.AdamW])
def test_it_leaves_no_trace_and_repeats(kind: type[torch.optim.Optimizer]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
    optimizer = kind(model.parameters(), lr=0.01)  # type: ignore[call-arg]
    x, y = line()
    ((model(x) - y) ** 2).mean().backward()
    optimizer.step()
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    random = torch.get_rng_state()
    curve = rightbatch.find_lr(model, (x, y), optimizer=optimizer, batch_size=32)
    after = (model.state_dict(), optimizer.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(before[0].values(), after[0].values(), strict=True))
    torch.testing.assert_close(after[1], before[1], rtol=0, atol=0)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert torch.equal(torch.get_rng_state(), random)
    assert curve == rightbatch.find_lr(model, (x, y), optimizer=optimizer, batch_size=32)


def test_picture_and_refusals(tmp_path: Path) -> None:
    model = nn.Linear(4, 1)
    curve = find_lr(model, line(), batch_size=32)
    curve.plot(tmp_path / "rates.png")
    assert (tmp_path / "rates.png").stat().st_size > 10_000
    with pytest.raises(InputError, match="must end in"):
        curve.plot(tmp_path / "rates.txt")
    with pytest.raises(InputError, match="high is"):
        find_lr(model, line(), low=1.0, high=0.5)
    with pytest.raises(InputError, match="NaN or infinite"):
        find_lr(model, (torch.full((8, 4), math.inf), torch.zeros(8, 1)))


class NeedsClosure(torch.optim.Optimizer):
    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.1})

    def step(self, closure: Any) -> None:  # type: ignore[override]
        closure()


@pytest.mark.parametrize("kind", [torch.optim.LBFGS, NeedsClosure])
def test_closures_are_refused_with_advice(kind: type[torch.optim.Optimizer]) -> None:
    """An optimizer that evaluates the loss itself cannot be given one gradient per step."""
    model = nn.Linear(4, 1)
    with pytest.raises(UnsupportedError, match="closure"):
        find_lr(model, line(), optimizer=kind(model.parameters()))  # type: ignore[call-arg]
    with pytest.raises(InputError, match=r"torch\.optim\.Optimizer"):
        find_lr(model, line(), optimizer="adam")  # type: ignore[arg-type]


def test_a_group_at_rate_zero_stays_frozen() -> None:
    """The curve is that of a model whose first group does not require gradients."""
    curves = []
    for freeze in (False, True):
        torch.manual_seed(0)
        model = nn.Linear(4, 1)
        model.weight.requires_grad_(not freeze)
        groups: list[dict[str, Any]] = [{"params": [model.weight], "lr": 0.0}, {"params": [model.bias]}]
        optimizer = torch.optim.SGD(groups[freeze:], lr=0.1)
        curves.append(find_lr(model, line(), optimizer=optimizer, steps=20, high=0.1))
    assert curves[0].losses == pytest.approx(curves[1].losses)
