"""Momentum as papers and as torch write it, and torch's optimizers under the loop: the claims of docs/momentum.md."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rightbatch import AutoBatch
from rightbatch.data import Order

ALPHA, BETA, STEPS, N, BATCH, SEED = 0.3, 0.9, 40, 50, 10, 6
Update = Callable[[Tensor, Tensor, int], Tensor]


def problem() -> tuple[nn.Linear, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 4, dtype=torch.float64, generator=generator)
    y = x @ torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64) + 0.1
    model = nn.Linear(4, 1, bias=False, dtype=torch.float64)
    nn.init.zeros_(model.weight)
    return model, x, y


def loss(output: Tensor, target: Tensor) -> Tensor:
    return F.mse_loss(output.squeeze(1), target)


def by_the_loop(
    optimizer: torch.optim.Optimizer, model: nn.Module, x: Tensor, y: Tensor, step: Any, drive: Any
) -> Tensor:
    drive(AutoBatch(model, optimizer, (x, y), BATCH, step, seed=SEED, epochs=STEPS * BATCH // N), loss)
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def by_hand(update: Update) -> Tensor:
    """x <- update(x, g, t) over the very batches of the loop, the gradient of the mean squared error written out."""
    _, x, y = problem()
    w = torch.zeros(4, dtype=torch.float64)
    order = Order(N, SEED)
    for t in range(STEPS):
        start = t * BATCH % N
        rows = torch.from_numpy(order.indices(t * BATCH // N, start, start + BATCH))
        a, b = x[rows], y[rows]
        w = update(w, 2 * a.T @ (a @ w - b) / BATCH, t)
    return w


def exponential_average(first: Callable[[Tensor], Tensor], rate: float = ALPHA) -> Update:
    """v <- β v + (1 - β) g, x <- x - α v, with v before the first step given by `first`."""
    v = torch.zeros(0)

    def update(w: Tensor, g: Tensor, t: int) -> Tensor:
        nonlocal v
        v = BETA * (first(g) if t == 0 else v) + (1 - BETA) * g
        return w - rate * v

    return update


def test_the_average_begun_at_zero_is_torch_momentum_at_a_smaller_rate(drive: Any) -> None:
    """v0 = 0: torch.optim.SGD(lr=α(1-β), momentum=β), step for step."""
    model, x, y = problem()
    optimizer = torch.optim.SGD(model.parameters(), lr=ALPHA * (1 - BETA), momentum=BETA)
    found = by_the_loop(optimizer, model, x, y, None, drive)
    expected = by_hand(exponential_average(torch.zeros_like))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert found.norm() > 1.0


def test_dampening_begins_the_average_at_the_first_gradient(drive: Any) -> None:
    """SGD(lr=α, momentum=β, dampening=β) weighs g by 1 - β, but sets its buffer to g1: the recursion with v1 = g1."""
    model, x, y = problem()
    optimizer = torch.optim.SGD(model.parameters(), lr=ALPHA, momentum=BETA, dampening=BETA)
    found = by_the_loop(optimizer, model, x, y, None, drive)
    torch.testing.assert_close(found, by_hand(exponential_average(lambda g: g)), rtol=1e-12, atol=1e-12)
    from_zero = by_hand(exponential_average(torch.zeros_like))
    assert (found - from_zero).norm() > 1e-3 * found.norm(), "which is not the average begun at zero"


def test_a_dampening_of_one_minus_beta_is_no_average(drive: Any) -> None:
    """torch weighs g by 1 - dampening, so that dampening=1-β gives u <- β (u + g) after the first step."""
    u = torch.zeros(4, dtype=torch.float64)

    def update(w: Tensor, g: Tensor, t: int) -> Tensor:
        nonlocal u
        u = g if t == 0 else BETA * (u + g)
        return w - 0.02 * u

    model, x, y = problem()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=BETA, dampening=1 - BETA)
    found = by_the_loop(optimizer, model, x, y, None, drive)
    torch.testing.assert_close(found, by_hand(update), rtol=1e-12, atol=1e-12)


def test_the_two_beginnings_differ_by_what_the_start_is_worth() -> None:
    """After one step the average begun at g1 has moved 1/(1-β) times as far."""
    weights = []
    for begin in (torch.zeros_like, lambda g: g):
        _, x, y = problem()
        update = exponential_average(begin)
        weights.append(update(torch.zeros(4, dtype=torch.float64), 2 * x.T @ -y / N, 0))
    torch.testing.assert_close(weights[1], weights[0] / (1 - BETA), rtol=1e-14, atol=0.0)


def test_heavy_ball(drive: Any) -> None:
    """x <- x - α g + β (x - x_before) is torch's momentum without dampening at the same α."""
    previous = torch.zeros(4, dtype=torch.float64)

    def update(w: Tensor, g: Tensor, t: int) -> Tensor:
        nonlocal previous
        w, previous = w - 0.03 * g + BETA * (w - previous), w
        return w

    model, x, y = problem()
    found = by_the_loop(torch.optim.SGD(model.parameters(), momentum=BETA), model, x, y, 0.03, drive)
    torch.testing.assert_close(found, by_hand(update), rtol=1e-12, atol=1e-12)


def test_rmsprop(drive: Any) -> None:
    """s <- ρ s + (1 - ρ) g², x <- x - α g/(sqrt(s) + ε)."""
    s = torch.zeros(4, dtype=torch.float64)

    def update(w: Tensor, g: Tensor, t: int) -> Tensor:
        nonlocal s
        s = 0.95 * s + 0.05 * g**2
        return w - 0.02 * g / (s.sqrt() + 1e-8)

    model, x, y = problem()
    found = by_the_loop(torch.optim.RMSprop(model.parameters(), alpha=0.95), model, x, y, 0.02, drive)
    torch.testing.assert_close(found, by_hand(update), rtol=1e-12, atol=1e-12)


def test_adam(drive: Any) -> None:
    """m and v averaged, both divided by 1 - β^t, x <- x - α m̂/(sqrt(v̂) + ε)."""
    m = v = torch.zeros(4, dtype=torch.float64)

    def update(w: Tensor, g: Tensor, t: int) -> Tensor:
        nonlocal m, v
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        return w - 0.05 * (m / (1 - 0.9 ** (t + 1))) / ((v / (1 - 0.999 ** (t + 1))).sqrt() + 1e-8)

    model, x, y = problem()
    found = by_the_loop(torch.optim.Adam(model.parameters()), model, x, y, 0.05, drive)
    torch.testing.assert_close(found, by_hand(update), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.RMSprop, torch.optim.Adam, torch.optim.AdamW])
def test_the_first_step_in_one_line(make: Any, drive: Any) -> None:
    """From zero along g: SGD moves -α g, RMSprop -α g/(sqrt(1 - ρ) |g|), Adam and AdamW -α sign g."""
    model, x, y = problem()
    rows = torch.from_numpy(Order(N, SEED).indices(0, 0, BATCH))
    g = 2 * x[rows].T @ -y[rows] / BATCH
    drive(AutoBatch(model, make(model.parameters()), (x, y), BATCH, 0.01, seed=SEED), loss, steps=1)
    sign = -0.01 * g.sign()
    expected = {torch.optim.SGD: -0.01 * g, torch.optim.RMSprop: sign / (1 - 0.99) ** 0.5}.get(make, sign)
    torch.testing.assert_close(model.weight.detach()[0], expected, rtol=1e-6, atol=0.0)
