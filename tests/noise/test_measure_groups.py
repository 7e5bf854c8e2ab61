"""`rightbatch.measure` in an optimizer's metric and group by group, against the definitions written out."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adam, AdamW, RMSprop

from rightbatch import InputError, UnsupportedError, measure
from rightbatch.measurements import Measurement
from rightbatch.noise import Preconditioner, per_example_gradients


def batch(samples: int = 12) -> tuple[Tensor, Tensor]:
    return torch.randn(samples, 6).double(), torch.randint(0, 3, (samples,))


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 3)).double()


class Twice(nn.Module):
    """One layer used twice, and a recurrent one."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.cell, self.head = nn.Linear(6, 6), nn.GRU(3, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(self.layer(x).tanh())
        return self.head(self.cell(x.view(-1, 2, 3))[0][:, -1])


class Functional(nn.Module):
    """Its layer's weight acts by function as well: no hook sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.linear(self.layer(x).tanh(), self.layer.weight))


def split(model: nn.Module) -> list[dict[str, Any]]:
    """Weights with weight decay, everything else without: in different groups within one layer."""
    own = list(model.parameters())
    return [
        {"params": [p for p in own if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in own if p.ndim == 1], "weight_decay": 0.0},
    ]


def stepped(optimizer: torch.optim.Optimizer, model: nn.Module, steps: int = 3) -> torch.optim.Optimizer:
    for _ in range(steps):
        optimizer.zero_grad()
        x, y = batch()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return optimizer


def moments(g: Tensor) -> tuple[float, float, float]:
    mean = g.mean(0)
    norm2 = mean.square().sum().item()
    variance = (g - mean).square().sum().item() / (len(g) - 1)
    return norm2, variance, norm2 - variance / len(g)


def jackknife_errors(g: Tensor) -> list[float]:
    """By leaving each sample out in earnest."""
    b = len(g)
    left = torch.tensor([[v, s, v / s] for _, v, s in (moments(torch.cat([g[:i], g[i + 1 :]])) for i in range(b))])
    return ((left - left.mean(0)).square().sum(0) * (b - 1) / b).sqrt().tolist()


def assert_same(found: Measurement, g: Tensor) -> None:
    norm2, variance, signal = moments(g)
    assert (found.gradient_norm2, found.variance, found.signal) == pytest.approx((norm2, variance, signal), rel=1e-9)
    errors = jackknife_errors(g)
    assert found.standard_error[:2] == pytest.approx(errors[:2], rel=1e-5)
    if math.isfinite(found.standard_error.noise_scale):
        assert found.standard_error.noise_scale == pytest.approx(errors[2], rel=1e-4)


OPTIMIZERS = {
    "AdamW": lambda groups: AdamW(groups, lr=1e-2),
    "Adam, amsgrad": lambda groups: Adam(groups, lr=1e-2, amsgrad=True),
    "RMSprop, centered": lambda groups: RMSprop(groups, lr=1e-3, centered=True),
    "SGD": lambda groups: SGD(groups, lr=0.1, momentum=0.9),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("make", [plain, Twice, Functional])
def test_whole_and_groups_against_explicit_gradients(make: Any, kind: str) -> None:
    model, (x, y) = make().double(), batch()
    optimizer = stepped(OPTIMIZERS[kind](split(model)), model)
    preconditioner = Preconditioner(optimizer)
    sizes = [p.numel() for p in model.parameters()]
    parts = per_example_gradients(model, F.cross_entropy, x, y).split(sizes, 1)
    for k, p in enumerate(model.parameters()):
        if (diagonal := preconditioner.diagonal(p)) is not None:
            parts[k].mul_(diagonal.flatten())
    found = measure(model, F.cross_entropy, x, y, optimizer=optimizer)
    assert found.method == "per-example"
    assert found.reason.startswith("one backward pass per example" if make is Functional else "all samples in one")
    assert found.metric == ("" if kind == "SGD" else kind.partition(",")[0])
    assert_same(found, torch.cat(parts, 1))
    assert len(found.groups) == 2
    for group, own in zip(found.groups, optimizer.param_groups, strict=True):
        inside = [part for part, p in zip(parts, model.parameters(), strict=True) if any(p is q for q in own["params"])]
        assert group.metric == found.metric and group.method == found.method and group.groups == ()
        assert_same(group, torch.cat(inside, 1))
    assert sum(group.variance for group in found.groups) == pytest.approx(found.variance)


def test_float32_agrees_with_float64() -> None:
    model, (x, y) = plain(), batch(32)
    optimizer = stepped(AdamW(split(model), lr=1e-2), model)
    exact = measure(model, F.cross_entropy, x, y, optimizer=optimizer)
    single = plain().float()
    single.load_state_dict(model.state_dict())
    again = AdamW(split(single), lr=1e-2)
    again.load_state_dict(optimizer.state_dict())
    found = measure(single, F.cross_entropy, x.float(), y, optimizer=again)
    assert found.reason == "all samples in one backward pass"
    assert found.variance == pytest.approx(exact.variance, rel=1e-4)
    assert found.standard_error.variance == pytest.approx(exact.standard_error.variance, rel=1e-3)


@pytest.mark.parametrize("coupled", [True, False])
def test_micro_batches_in_the_metric(coupled: bool) -> None:
    norm: nn.Module = nn.BatchNorm1d(8) if coupled else nn.Identity()
    model, (x, y) = nn.Sequential(nn.Linear(6, 8), norm, nn.Linear(8, 3)).double(), batch(32)
    optimizer = stepped(AdamW(split(model), lr=1e-2), model)
    found = measure(model, F.cross_entropy, x, y, method="auto" if coupled else "micro-batch", optimizer=optimizer)
    assert found.method == "micro-batch" and found.metric == "AdamW" and found.groups[1].method == "micro-batch"
    preconditioner, rows = Preconditioner(optimizer), []
    for part_x, part_y in zip(x.tensor_split(8), y.tensor_split(8), strict=True):
        g = torch.autograd.grad(F.cross_entropy(model(part_x), part_y), list(model.parameters()))
        rows.append([gradient * preconditioner.diagonal(p) for gradient, p in zip(g, model.parameters(), strict=True)])
    for measured, kinds in ((found, (1, 2)), (found.groups[0], (2,)), (found.groups[1], (1,))):
        g = torch.stack([torch.cat([part.flatten() for part in row if part.ndim in kinds]) for row in rows])
        # the spread of the means of 4 samples, in units of one
        assert measured.variance == pytest.approx(4 * g.var(0).sum().item())
        assert measured.gradient_norm2 == pytest.approx(g.mean(0).square().sum().item())


def test_identity_of_sgd_changes_nothing() -> None:
    model, (x, y) = plain(), batch()
    one = measure(model, F.cross_entropy, x, y, optimizer=SGD(model.parameters(), lr=1.0))
    bare = measure(model, F.cross_entropy, x, y)
    assert bare.groups == () and bare.metric == "" and len(one.groups) == 1
    assert (one.variance, one.signal) == (bare.variance, bare.signal) == (one.groups[0].variance, one.groups[0].signal)


def test_a_preconditioner_may_be_given_itself() -> None:
    model, (x, y) = plain(), batch()
    optimizer = stepped(AdamW(model.parameters(), lr=1e-2), model)
    bounded = Preconditioner(optimizer, floor=0.5)
    scale = torch.cat([bounded.diagonal(p).flatten() for p in model.parameters()])
    found = measure(model, F.cross_entropy, x, y, optimizer=bounded)
    assert found.metric == "AdamW" and len(found.groups) == 1
    assert_same(found, per_example_gradients(model, F.cross_entropy, x, y) * scale)


class Spare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.spare = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def test_dead_inputs_and_parameters_without_a_gradient() -> None:
    model, (x, y) = Spare().double(), batch()
    x[:, 2] = 0  # its weights have v = 0 and P = 1/ε, and no gradient; the spare layer has no state at all
    optimizer = AdamW(model.parameters(), lr=1e-2)
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    found = measure(model, F.cross_entropy, x, y, optimizer=optimizer)
    assert found.reason.startswith("one backward pass per example: ") and "'spare'" in found.reason
    preconditioner, g = Preconditioner(optimizer), per_example_gradients(model, F.cross_entropy, x, y)
    assert model.spare.bias not in preconditioner and preconditioner.diagonal(model.layer.weight).max() > 9e7
    used = torch.cat([preconditioner.diagonal(p).flatten() for p in model.layer.parameters()])
    assert_same(found, g[:, : len(used)] * used)


def test_frozen_parameters_and_empty_groups() -> None:
    model, (x, y) = plain(), batch()
    model[0].weight.requires_grad_(False)
    optimizer = stepped(AdamW([{"params": model[0].weight}, {"params": [*model.parameters()][1:]}]), model)
    found = measure(model, F.cross_entropy, x, y, optimizer=optimizer)
    assert found.groups[0].variance == found.groups[0].gradient_norm2 == 0
    assert found.groups[1].variance == found.variance > 0


@pytest.mark.parametrize("make", [plain, Functional, lambda: nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3))])
def test_no_trace(make: Any) -> None:
    model, (x, y) = nn.Sequential(make().double(), nn.Dropout(0.3)), batch()
    optimizer = stepped(AdamW(split(model), lr=1e-2), model)
    held = [*model.state_dict().values(), *(p.grad for p in model.parameters())]
    held += [value for state in optimizer.state.values() for value in state.values()]
    before, versions = [value.clone() for value in held], [p._version for p in model.parameters()]
    draws = torch.get_rng_state()
    measure(model, F.cross_entropy, x, y, optimizer=optimizer, curvature="noise")
    assert all(map(torch.equal, before, held)) and torch.equal(draws, torch.get_rng_state())
    assert versions == [p._version for p in model.parameters()]
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())


def head_only(model: nn.Module) -> torch.optim.Optimizer:
    return SGD(model[3].parameters(), lr=0.1)  # type: ignore[index]


def late(model: nn.Module) -> torch.optim.Optimizer:
    """A parameter that was frozen in all steps so far."""
    model[0].bias.requires_grad_(False)  # type: ignore[index]
    optimizer = stepped(Adam(model.parameters()), model)
    model[0].bias.requires_grad_(True)  # type: ignore[index]
    return optimizer


REFUSALS = [
    (lambda model: LBFGS(model.parameters()), UnsupportedError, "torch.optim.lbfgs.LBFGS is not known"),
    (lambda model: AdamW(model.parameters()), InputError, "AdamW has not taken a step"),
    (head_only, InputError, "does not hold 4 of the model's trainable parameters, the first of them '0.weight'"),
    (
        lambda model: SGD([*model.parameters(), nn.Parameter(torch.ones(2))], lr=0.1),
        InputError,
        r"1 trainable parameters that are not the model's, the first of shape \(2,\)",
    ),
    (late, InputError, r"Adam has no state yet for a parameter of shape \(8,\) that has a gradient"),
]


@pytest.mark.parametrize(("make", "error", "message"), REFUSALS, ids=[r[-1] for r in REFUSALS])
def test_refusals(make: Any, error: type[Exception], message: str) -> None:
    model = plain()
    with pytest.raises(error, match=message):
        measure(model, F.cross_entropy, *batch(), optimizer=make(model))
