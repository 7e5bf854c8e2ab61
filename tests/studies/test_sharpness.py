"""Sharpness against every corner of the box, the largest eigenvalue against the whole Hessian, and no trace left."""

import builtins
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rightbatch import InputError, MissingExtraError
from rightbatch.studies.generalisation.sharpness import keskar_sharpness, largest_eigenvalue


def logistic(features: int = 5) -> tuple[nn.Module, Tensor, Tensor]:
    model = nn.Linear(features, 2).double()
    return model, torch.randn(40, features).double(), torch.randint(0, 2, (40,))


def network() -> tuple[nn.Module, Tensor, Tensor]:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 3)).double()
    return model, torch.randn(30, 4).double(), torch.randint(0, 3, (30,))


def exact_hessian(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    names = [name for name, _ in model.named_parameters()]
    sizes = [p.numel() for p in model.parameters()]

    def value(w: Tensor) -> Tensor:
        parts = {name: part.view_as(p) for name, part, p in zip(names, w.split(sizes), model.parameters(), strict=True)}
        return F.cross_entropy(torch.func.functional_call(model, parts, (x,)), y)

    w = torch.cat([p.detach().flatten() for p in model.parameters()])
    return torch.autograd.functional.hessian(value, w)


@pytest.mark.parametrize("epsilon", [1e-3, 0.1])
@pytest.mark.parametrize("trained", [0, 2000])
def test_a_convex_loss_is_greatest_at_a_corner(epsilon: float, trained: int) -> None:
    """2¹² corners of a logistic regression of 12 parameters, far from its minimum and near to it."""
    model, x, y = logistic()
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    for _ in range(trained):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    w = torch.cat([p.detach().flatten() for p in model.parameters()])
    corners = w + torch.tensor(list(itertools.product((-1.0, 1.0), repeat=12))).double() * epsilon * (w.abs() + 1)
    weight, bias = corners[:, :10].view(-1, 2, 5), corners[:, 10:]
    outputs = torch.einsum("ni,coi->cno", x, weight) + bias[:, None]
    most = max(F.cross_entropy(output, y).item() for output in outputs)
    least = F.cross_entropy(model(x), y).item()
    exact = 100 * (most - least) / (1 + least)
    found = keskar_sharpness(model, F.cross_entropy, x, y, epsilon=epsilon)
    # At the minimum corners differ little, and the way up may end at one that is not the highest.
    assert found <= exact * (1 + 1e-9)
    assert found >= exact * (0.999 if not trained else 0.8)


def test_the_measure_does_not_depend_on_how_short_the_gradient_is() -> None:
    """f(w) = c + s·|w|²/2 at w = 1/1000: the farthest corner is known, whatever the scale s."""

    class Bowl(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.full((20,), 1e-3, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return self.w.square().sum() / 2 + 0 * x.sum()

    x = torch.zeros(1, 1).double()
    for s in (1e-8, 1.0, 1e8):
        found = keskar_sharpness(Bowl(), lambda output, _, s=s: s * output, x, x, epsilon=0.01)
        low, high = 20 * 1e-6 / 2, 20 * (1e-3 + 0.01 * 1.001) ** 2 / 2
        assert found == pytest.approx(100 * s * (high - low) / (1 + s * low), rel=1e-9)


def test_the_largest_eigenvalue_of_a_small_network() -> None:
    model, x, y = network()
    model(x)  # statistics of BatchNorm away from where they begin
    model.eval()
    exact = torch.linalg.eigvalsh(exact_hessian(model, x, y))
    model.train()
    assert largest_eigenvalue(model, F.cross_entropy, x, y, tolerance=1e-8) == pytest.approx(exact[-1].item(), rel=1e-7)
    rough = largest_eigenvalue(model, F.cross_entropy, x, y, tolerance=0.05)
    assert rough == pytest.approx(exact[-1].item(), rel=0.06) and rough <= exact[-1] * (1 + 1e-9)


def test_as_many_products_as_parameters_are_enough() -> None:
    """Least squares of few parameters: H = 2XᵀX/n, and one parameter alone is its own eigenvalue."""
    for features in (1, 3):
        x = torch.randn(20, features).double()
        model = nn.Linear(features, 1, bias=False).double()
        exact = torch.linalg.eigvalsh(2 * x.T @ x / 20)[-1].item()
        found = largest_eigenvalue(model, F.mse_loss, x, torch.zeros(20, 1).double(), tolerance=1e-12)
        assert found == pytest.approx(exact, rel=1e-10)


def test_they_leave_no_trace() -> None:
    model, x, y = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    model[2].eval()
    modes = [module.training for module in model.modules()]
    values = [(keskar_sharpness(model, F.cross_entropy, x, y), largest_eigenvalue(model, F.cross_entropy, x, y))] * 2
    assert values[0] == values[1] and all(math.isfinite(value) for value in values[0])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random) and modes == [m.training for m in model.modules()]
    assert all(p.grad is None for p in model.parameters())


def test_what_cannot_be_looked_at_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = logistic()
    with pytest.raises(InputError, match="epsilon"):
        keskar_sharpness(model, F.cross_entropy, x, y, epsilon=0.0)
    with pytest.raises(InputError, match="tolerance"):
        largest_eigenvalue(model, F.cross_entropy, x, y, tolerance=0.0)
    with pytest.raises(InputError, match="nan"):
        keskar_sharpness(model, F.cross_entropy, x * np.nan, y)
    usual = builtins.__import__

    def without_scipy(name: str, *rest: Any, **named: Any) -> Any:
        if name.startswith("scipy"):
            raise ImportError(name)
        return usual(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without_scipy)
    with pytest.raises(MissingExtraError, match=r"rightbatch\[studies\]"):
        keskar_sharpness(model, F.cross_entropy, x, y)
