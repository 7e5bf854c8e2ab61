"""The preconditioner read from an optimizer's state: the one by which torch's own step divides."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import schedulefree
import torch
from torch import Tensor, nn
from torch.optim import ASGD, LBFGS, SGD, Adagrad, Adam, Adamax, AdamW, NAdam, RAdam, RMSprop, Rprop

from rightbatch import InputError, UnsupportedError
from rightbatch.noise import Preconditioner

RATE = 0.1


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.randn(3, 4).double()), nn.Parameter(torch.randn(4).double())]


def step(optimizer: torch.optim.Optimizer, own: list[nn.Parameter], closure: Callable[[], Any] | None = None) -> None:
    """One step along gradients of very different sizes, some zero."""
    for p in own:
        p.grad = torch.randn_like(p) * torch.logspace(-3, 1, 4, dtype=p.dtype)
        p.grad[..., 0] = 0
    optimizer.step(*([closure] if closure else []))


def moved(optimizer: torch.optim.Optimizer, own: list[nn.Parameter]) -> list[Tensor]:
    """-Δw/lr of one further step."""
    before = [p.detach().clone() for p in own]
    step(optimizer, own)
    return [(b - p.detach()) / RATE for b, p in zip(before, own, strict=True)]


def by_momentum(optimizer: torch.optim.Optimizer, p: nn.Parameter) -> Tensor:
    """Adam's m̂, to which P is applied."""
    state, (beta1, _) = optimizer.state[p], optimizer.param_groups[0]["betas"]
    return state["exp_avg"] / (1 - beta1 ** float(state["step"]))


def by_gradient(optimizer: torch.optim.Optimizer, p: nn.Parameter) -> Tensor:
    assert p.grad is not None
    return p.grad


ADAM_KINDS = [{}, {"amsgrad": True}, {"foreach": True}, {"fused": True}, {"amsgrad": True, "foreach": True}]
EXACT = [
    *((Adam, kind, by_momentum) for kind in ADAM_KINDS),
    *((AdamW, kind | {"weight_decay": 0.0}, by_momentum) for kind in ADAM_KINDS),
    (Adam, {"eps": 1e-2, "betas": (0.5, 0.7)}, by_momentum),
    (Adam, {"maximize": True}, by_momentum),
    (Adam, {"betas": (torch.tensor(0.9).double(), torch.tensor(0.99).double()), "foreach": False}, by_momentum),
    (Adamax, {}, by_momentum),
    (RMSprop, {}, by_gradient),
    (RMSprop, {"centered": True, "alpha": 0.6, "foreach": True}, by_gradient),
    (Adagrad, {}, by_gradient),
    (Adagrad, {"initial_accumulator_value": 0.3}, by_gradient),
    (SGD, {}, by_gradient),
]


@pytest.mark.parametrize(("kind", "options", "direction"), EXACT)
@pytest.mark.parametrize("steps", [1, 7])
def test_the_step_torch_takes_is_along_it(kind: Any, options: dict[str, Any], direction: Any, steps: int) -> None:
    own = parameters()
    optimizer = kind(own, lr=RATE, **options)
    for _ in range(steps - 1):
        step(optimizer, own)
    for p, found in zip(own, moved(optimizer, own), strict=True):
        diagonal = Preconditioner(optimizer).diagonal(p)
        expected = direction(optimizer, p) * (1 if diagonal is None else diagonal)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_nadam_divides_both_its_terms_by_it() -> None:
    own = parameters()
    optimizer = NAdam(own, lr=RATE, betas=(0.9, 0.99))
    for _ in range(4):
        step(optimizer, own)
    for p, found in zip(own, moved(optimizer, own), strict=True):
        state = optimizer.state[p]
        mu, after = (0.9 * (1 - 0.5 * 0.96 ** (t * 0.004)) for t in (5, 6))
        product = float(state["mu_product"])
        m = p.grad * (1 - mu) / (1 - product) + state["exp_avg"] * after / (1 - product * after)
        diagonal = Preconditioner(optimizer).diagonal(p)
        # torch keeps the product of the momenta in float32
        torch.testing.assert_close(found, m * diagonal, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("steps", [3, 9])
def test_radam_adapts_when_it_has_averaged_enough(steps: int) -> None:
    own = parameters()
    optimizer = RAdam(own, lr=RATE)
    for _ in range(steps - 1):
        step(optimizer, own)
    rho = (limit := 2 / 0.001 - 1) - 2 * steps * 0.999**steps / (1 - 0.999**steps)
    for p, found in zip(own, moved(optimizer, own), strict=True):
        diagonal, m = Preconditioner(optimizer).diagonal(p), by_momentum(optimizer, p)
        if steps == 3:
            assert rho < 5 and diagonal is None
            torch.testing.assert_close(found, m)
        else:
            rectified = math.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))
            torch.testing.assert_close(found, rectified * m * diagonal, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["AdamWScheduleFree", "RAdamScheduleFree", "SGDScheduleFree"])
@pytest.mark.parametrize("closure", [False, True])
@pytest.mark.parametrize("foreach", [False, True])
def test_schedule_free(name: str, closure: bool, foreach: bool) -> None:
    own = parameters()
    optimizer = getattr(schedulefree, name + ("Closure" if closure else ""))(own, lr=RATE, foreach=foreach)
    if not closure:
        optimizer.train()
    for _ in range(8):
        step(optimizer, own, (lambda: None) if closure else None)
    before = [optimizer.state[p]["z"].clone() for p in own]
    gradients = []

    def draw() -> None:
        for p in own:
            p.grad = torch.randn_like(p)
            gradients.append(p.grad.clone())

    if closure:
        optimizer.step(draw)
    else:
        draw()
        optimizer.step()
    rate = optimizer.param_groups[0]["scheduled_lr"]
    for p, z, g in zip(own, before, gradients, strict=True):
        diagonal = Preconditioner(optimizer).diagonal(p)
        assert (diagonal is None) == name.startswith("SGD")
        expected = g if diagonal is None else g * diagonal
        torch.testing.assert_close((z - optimizer.state[p]["z"]) / rate, expected, rtol=1e-6, atol=1e-9)


def test_it_is_frozen_and_leaves_the_state_alone() -> None:
    own = parameters()
    optimizer = AdamW(own, lr=RATE)
    step(optimizer, own)
    state = {name: value.clone() for name, value in optimizer.state[own[0]].items()}
    frozen = Preconditioner(optimizer)
    kept = frozen.diagonal(own[0]).clone()
    assert all(torch.equal(value, optimizer.state[own[0]][name]) for name, value in state.items())
    step(optimizer, own)
    assert torch.equal(frozen.diagonal(own[0]), kept)
    torch.testing.assert_close(frozen.squares(own)[own[1]], frozen.diagonal(own[1]) ** 2)


def test_half_precision_state_is_widened() -> None:
    p = nn.Parameter(torch.randn(4, dtype=torch.bfloat16))
    optimizer = Adam([p], lr=RATE)
    step(optimizer, [p])
    diagonal = Preconditioner(optimizer).diagonal(p)
    assert diagonal.dtype is torch.float32
    assert diagonal[0].item() == pytest.approx(1e8)  # no gradient so far: 1/ε


def test_groups_hold_the_trainable_parameters_and_their_own_settings() -> None:
    own, frozen = parameters(), nn.Parameter(torch.zeros(2), requires_grad=False)
    optimizer = Adam([{"params": [own[0], frozen]}, {"params": [own[1]], "eps": 1.0}], lr=RATE)
    step(optimizer, own)
    found = Preconditioner(optimizer)
    assert found.name == "Adam" and found.groups == [[own[0]], [own[1]]]
    assert found.diagonal(own[1])[0].item() == pytest.approx(1.0)  # zero gradient: 1/ε


def test_a_floor_bounds_the_entries_of_rare_features() -> None:
    own = parameters()
    optimizer = Adam(own, lr=RATE)
    step(optimizer, own)
    exact, bounded = (Preconditioner(optimizer, floor).diagonal(own[0]) for floor in (0.0, 0.1))
    least = 0.1 * (1 / exact).square().mean().sqrt()
    assert exact[0, 0].item() == pytest.approx(1e8)  # no gradient so far: 1/ε
    torch.testing.assert_close(1 / bounded, (1 / exact).clamp(min=least))
    with pytest.raises(InputError, match="floor is 2: give a finite number at least 0 and at most 1"):
        Preconditioner(optimizer, floor=2)


def test_the_identity_needs_no_step_and_has_no_name() -> None:
    own = parameters()
    found = Preconditioner(SGD(own, lr=RATE, momentum=0.9, nesterov=True))
    assert found.name == "" and found.diagonal(own[0]) is None and found.squares(own) == {}


@pytest.mark.parametrize("kind", [Adam, Adagrad, RMSprop])
def test_before_the_first_step_there_is_none(kind: Any) -> None:
    with pytest.raises(InputError, match=f"{kind.__name__} has not taken a step.*Measure after its first step"):
        Preconditioner(kind(parameters(), lr=RATE))


def test_a_parameter_without_a_state_is_named() -> None:
    own = parameters()
    optimizer = Adam(own, lr=RATE)
    step(optimizer, own[:1])
    found = Preconditioner(optimizer)
    assert own[0] in found and own[1] not in found
    with pytest.raises(InputError, match=r"Adam has no state yet for a parameter of shape \(4,\)"):
        found.diagonal(own[1])
    with pytest.raises(InputError, match=r"Adam does not hold a parameter of shape \(2,\)"):
        found.diagonal(torch.zeros(2))


class Own(Adam):
    """May compute anything in its step."""


@pytest.mark.parametrize("kind", [LBFGS, Rprop, ASGD, Own])
def test_other_optimizers_are_refused_by_name(kind: Any) -> None:
    with pytest.raises(UnsupportedError, match=f"{kind.__name__} is not known; it is for SGD, Adam.*Measure without"):
        Preconditioner(kind(parameters()))
