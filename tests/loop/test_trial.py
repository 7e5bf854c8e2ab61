"""The model moved along its gradient and back; the curvature of an exact quadratic."""

import math

import pytest
import torch
from torch import Tensor, nn

from rightbatch.decision import Trial
from rightbatch.loop.trial import LineSearch
from rightbatch.noise import squared_norm
from rightbatch.noise.isolation import random_state, set_random_state

H = torch.tensor([[3.0, 1.0, 0.0], [1.0, 2.0, -0.5], [0.0, -0.5, 1.0]], dtype=torch.float64)


class Bowl(nn.Module):
    """½ wᵀ H w, with a parameter that takes no part and a buffer that counts the calls."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
        self.idle = nn.Parameter(torch.ones(2, dtype=torch.float64))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self) -> Tensor:
        self.calls += 1
        return 0.5 * self.w @ H @ self.w


def begin() -> tuple[Bowl, LineSearch, Tensor, Tensor]:
    model = Bowl()
    model().backward()
    assert model.w.grad is not None
    w, g = model.w.detach().clone(), model.w.grad.clone()
    return model, LineSearch(model, model.parameters(), float(squared_norm([g]))), w, g


def test_moves_are_from_the_same_origin() -> None:
    model, line, w, g = begin()
    for step in (1.0, 0.25, 3.0):
        line.move(Trial(step))
        torch.testing.assert_close(model.w.detach(), w - step * g, rtol=1e-15, atol=0.0)
        assert model.w.grad is None and model.idle.grad is None
        assert line.trial == Trial(step)
    assert torch.equal(model.idle, torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("step", [1e-3, 0.3, 10.0])
def test_the_curvature_of_a_quadratic_is_exact(step: float, scale: float) -> None:
    """ν = gᵀHg/gᵀg at any step; the trial's gradients may have been gathered with other weights."""
    model, line, _, g = begin()
    line.move(Trial(step, gradient=True))
    loss = model()
    (loss / scale).backward()
    outcome = line.outcome(loss.item(), scale)
    assert outcome.loss == loss.item()
    assert outcome.curvature == pytest.approx(float(g @ H @ g / (g @ g)), rel=1e-11)


def test_no_curvature_where_none_was_asked_for_or_none_is_defined() -> None:
    model, line, _, _ = begin()
    for trial, loss in (
        (Trial(0.5), 1.0),
        (Trial(0.0, True), 1.0),
        (Trial(0.5, True), math.nan),
        (Trial(0.5, True), math.inf),
    ):
        line.move(trial)
        model().backward()
        outcome = line.outcome(loss, 1.0)
        assert math.isnan(outcome.curvature)
        assert outcome.loss == loss or math.isnan(loss)


def test_leave_puts_everything_back() -> None:
    model, line, w, g = begin()
    torch.manual_seed(3)
    model, line, w, g = begin()
    random = torch.get_rng_state()
    line.move(Trial(2.0, gradient=True))
    torch.rand(5)
    model().backward()
    model()
    assert int(model.calls) == 3
    line.leave()
    assert torch.equal(model.w, w)
    assert model.w.grad is not None and torch.equal(model.w.grad, g)
    assert model.idle.grad is None
    assert int(model.calls) == 1
    assert torch.equal(torch.get_rng_state(), random)


def test_random_states_go_back() -> None:
    device = torch.device("cpu")
    states = random_state(device)
    first = torch.rand(4)
    set_random_state(states, device)
    assert torch.equal(torch.rand(4), first)
