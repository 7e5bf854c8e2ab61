"""Schedule-free averaging against its three formulas in float64."""

import io
import math
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rightbatch import UnsupportedError
from rightbatch.loop.averaging import (
    MOVEMENT_EVERY_STEP_UNTIL,
    MOVEMENT_EVERY_STEPS,
    ScheduleFree,
    adam_without_momentum,
)
from rightbatch.measurements import Movement

BETA = 0.9
CENTRES = torch.tensor([3.0, -1.0, 0.5, 2.0, -2.0, 1.0, 0.25], dtype=torch.float64)
SCALES = torch.tensor([1.0, 0.1, 5.0, 2.0, 0.3, 1.0, 10.0], dtype=torch.float64)


class Point(nn.Module):
    """Two parameters of different shapes, one frozen between them, and a buffer."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.full((2, 2), 0.5, dtype=dtype))
        self.frozen = nn.Parameter(torch.ones(3, dtype=dtype), requires_grad=False)
        self.b = nn.Parameter(torch.full((3,), -0.5, dtype=dtype))
        self.register_buffer("seen", torch.zeros(1))


def trained(model: Point) -> Tensor:
    return torch.cat([model.a.detach().reshape(-1), model.b.detach()])


def gradient(w: Tensor, t: int) -> Tensor:
    """Of a noisy quadratic: the noise depends on t only, so that a twin meets the same."""
    generator = torch.Generator().manual_seed(t)
    noise = torch.randn(7, dtype=torch.float64, generator=generator)
    return SCALES * (w - CENTRES) + 0.3 * noise


def put(model: Point, g: Tensor) -> None:
    model.a.grad, model.b.grad = g[:4].reshape(2, 2).clone(), g[4:].clone()


def schedule(t: int) -> tuple[int, float]:
    """Batch sizes and step sizes that change."""
    return 4 + 3 * (t % 5) + t // 20, 0.01 * (1 + math.sin(t) / 2)


class Twin:
    """x, y and z by the formulas, in float64, with the direction of Adam (β₁ = 0) or of plain SGD."""

    def __init__(self, start: Tensor, adam: bool) -> None:
        self.x = self.z = self.y = self.start = start.clone()
        self.v, self.adam, self.t = torch.zeros(7, dtype=torch.float64), adam, 0
        self.weights = self.squared = 0.0
        self.distances: list[float] = []
        self.directions: list[float] = []

    def step(self, samples: int, rate: float) -> None:
        g = gradient(self.y, self.t)
        self.t += 1
        d = g
        if self.adam:
            self.v = 0.99 * self.v + 0.01 * g**2
            d = g / ((self.v / (1 - 0.99**self.t)).sqrt() + 1e-12)
        self.z = self.z - rate * d
        w = rate**2 * samples
        self.weights += w
        self.x = self.x + (w / self.weights) * (self.z - self.x)
        self.y = BETA * self.x + (1 - BETA) * self.z
        self.directions.append(float(d.square().mean()))
        self.distances.append(float((self.x - self.start).square().mean().sqrt()))


def begin(adam: bool, momentum: float = 0.0) -> tuple[Point, ScheduleFree]:
    model = Point()
    optimizer = None if adam else torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)
    return model, ScheduleFree(model, optimizer)


def advance(model: Point, averaging: ScheduleFree, steps: range) -> None:
    for t in steps:
        samples, rate = schedule(t)
        averaging.optimizer.param_groups[0]["lr"] = rate
        put(model, gradient(trained(model), t))
        averaging.step(samples, rate)


@pytest.mark.parametrize("adam", [True, False], ids=["Adam", "SGD"])
def test_the_three_sequences(adam: bool) -> None:
    model, averaging = begin(adam)
    twin = Twin(trained(model), adam)
    for t in range(100):
        advance(model, averaging, range(t, t + 1))
        twin.step(*schedule(t))
        torch.testing.assert_close(trained(model), twin.y, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(averaging.average(), twin.x, rtol=1e-11, atol=1e-12)
        with averaging.averaged():
            torch.testing.assert_close(trained(model), twin.x, rtol=1e-11, atol=1e-12)
    assert (twin.x - CENTRES).norm() < (twin.start - CENTRES).norm() - 1.0, "it is a descent"
    assert torch.equal(model.frozen, torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("adam", [True, False], ids=["Adam", "SGD"])
def test_the_movement_is_that_of_the_definition(adam: bool) -> None:
    """Refreshed at every step up to 64 and at every eighth then; in between the last direction stands for the next."""
    model, averaging = begin(adam)
    twin = Twin(trained(model), adam)
    assert averaging.movement == Movement(0.0, 0.0, 0)
    squared = distance = direction = 0.0
    for t in range(MOVEMENT_EVERY_STEP_UNTIL + 30):
        advance(model, averaging, range(t, t + 1))
        twin.step(*schedule(t))
        if t < MOVEMENT_EVERY_STEP_UNTIL or t % MOVEMENT_EVERY_STEPS == 0:
            distance, direction = twin.distances[-1], twin.directions[-1]
        squared += direction
        found = averaging.movement
        assert found.steps == t + 1
        assert found.distance_rms == pytest.approx(distance, rel=1e-10)
        assert found.squared_directions == pytest.approx(squared, rel=1e-10)


def test_weights_count_the_samples() -> None:
    """One step of 30 samples and one of 10, at rates 1 and 2: weights 30 and 40."""
    model, averaging = begin(adam=False)
    start = trained(model)
    zs, rates = [start], (1.0, 2.0)
    for samples, rate in zip((30, 10), rates, strict=True):
        averaging.optimizer.param_groups[0]["lr"] = rate
        g = torch.full((7,), 0.25, dtype=torch.float64)
        put(model, g)
        averaging.step(samples, rate)
        zs.append(zs[-1] - rate * g)
    torch.testing.assert_close(averaging.average(), (30 * zs[1] + 40 * zs[2]) / 70)


def test_averaged_gives_x_and_then_y_back() -> None:
    model, averaging = begin(adam=True)
    advance(model, averaging, range(9))
    y = trained(model)
    with averaging.averaged():
        x = trained(model)
        assert torch.equal(x, averaging.average()) and not torch.equal(x, y)
        with averaging.averaged():
            assert torch.equal(trained(model), x)
        assert torch.equal(trained(model), x), "an inner one ends nothing"
    assert torch.equal(trained(model), y)
    with pytest.raises(ZeroDivisionError), averaging.averaged():
        _ = 1 / 0
    assert torch.equal(trained(model), y)


def test_averaged_leaves_no_trace_in_what_follows() -> None:
    ends = []
    for looking in (False, True):
        model, averaging = begin(adam=True)
        for t in range(20):
            advance(model, averaging, range(t, t + 1))
            if looking:
                with averaging.averaged():
                    pass
        ends.append(trained(model))
    assert torch.equal(*ends)


def test_ship_leaves_x_in_the_model() -> None:
    model, averaging = begin(adam=True)
    advance(model, averaging, range(9))
    averaging.finalize()
    assert torch.equal(trained(model), averaging.average())


@pytest.mark.parametrize("adam", [True, False], ids=["Adam", "SGD"])
def test_restart_is_a_new_beginning_there(adam: bool) -> None:
    model, averaging = begin(adam, momentum=0.0 if adam else 0.9)
    advance(model, averaging, range(30))
    there = averaging.average() + 1.0
    averaging.restart(there)
    assert torch.equal(trained(model), there) and torch.equal(averaging.average(), there)
    assert averaging.movement.steps == 0 and averaging.movement.squared_directions == 0.0
    other, anew = Point(), None
    with torch.no_grad():
        other.a.copy_(there[:4].reshape(2, 2))
        other.b.copy_(there[4:])
    optimizer = None if adam else torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9)
    anew = ScheduleFree(other, optimizer)
    for averaged, point in ((averaging, model), (anew, other)):
        advance(point, averaged, range(15))
    assert torch.equal(trained(model), trained(other))
    assert torch.equal(averaging.average(), anew.average())
    assert averaging.movement == anew.movement


@pytest.mark.parametrize("adam", [True, False], ids=["Adam", "SGD"])
@pytest.mark.parametrize("at", [0, 11, 70])
def test_going_on_from_a_state_is_bit_for_bit(adam: bool, at: int) -> None:
    model, averaging = begin(adam, momentum=0.0 if adam else 0.9)
    advance(model, averaging, range(at))
    file = io.BytesIO()
    torch.save(averaging.state_dict(), file)
    file.seek(0)
    other, resumed = begin(adam, momentum=0.0 if adam else 0.9)
    with torch.no_grad():
        other.a.fill_(9.0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(trained(other), trained(model))
    for averaged, point in ((averaging, model), (resumed, other)):
        advance(point, averaged, range(at, at + 20))
    assert torch.equal(trained(model), trained(other))
    assert torch.equal(averaging.average(), resumed.average())
    assert averaging.movement == resumed.movement


def test_a_state_does_not_move_with_the_run() -> None:
    model, averaging = begin(adam=True)
    advance(model, averaging, range(5))
    state = averaging.state_dict()
    kept = deepcopy({name: state[name] for name in ("x", "y", "z", "start")})
    advance(model, averaging, range(5, 10))
    assert all(torch.equal(state[name], value) for name, value in kept.items())


def test_groups_and_state_of_a_given_optimizer_are_taken_over() -> None:
    """It goes on stepping z with its own settings, and with the state it brings."""
    model = Point()
    optimizer = torch.optim.SGD(
        [{"params": [model.b], "lr": 0.2}, {"params": [model.a, model.frozen], "lr": 0.1}], momentum=0.9
    )
    buffer = torch.arange(3, dtype=torch.float64)
    optimizer.state[model.b]["momentum_buffer"] = buffer.clone()
    start = trained(model)
    averaging = ScheduleFree(model, optimizer)
    assert averaging.optimizer is optimizer
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 2]  # what is frozen may be unfrozen
    g = torch.ones(7, dtype=torch.float64)
    put(model, g)
    averaging.step(5, 0.2)
    x = averaging.average()
    torch.testing.assert_close(x[:4], start[:4] - 0.1 * g[:4])
    torch.testing.assert_close(x[4:], start[4:] - 0.2 * (0.9 * buffer + g[4:]))


def test_a_parameter_without_gradient_stays() -> None:
    model, averaging = begin(adam=True)
    start = trained(model)
    averaging.optimizer.param_groups[0]["lr"] = 0.1
    model.a.grad = torch.ones(2, 2, dtype=torch.float64)
    averaging.step(5, 0.1)
    assert torch.equal(model.b, start[4:]) and not torch.equal(model.a.reshape(-1), start[:4])


def test_no_step_size_moves_nothing() -> None:
    model, averaging = begin(adam=True)
    start = trained(model)
    put(model, torch.ones(7, dtype=torch.float64))
    averaging.optimizer.param_groups[0]["lr"] = 0.0
    averaging.step(5, 0.0)
    assert torch.equal(trained(model), start)
    assert averaging.movement.squared_directions == 0.0


def test_mixed_dtypes_are_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double())
    with pytest.raises(UnsupportedError, match=r"one device and in one dtype, found .*float32.*float64.*convert"):
        ScheduleFree(model, None)


def test_a_foreign_optimizer_is_refused() -> None:
    stranger = nn.Linear(2, 2)
    with pytest.raises(UnsupportedError, match="holds parameters that are not trainable parameters of the model"):
        ScheduleFree(Point(), torch.optim.SGD(stranger.parameters(), lr=0.1))


def test_the_optimizer_it_brings() -> None:
    parameter = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer: Any = adam_without_momentum([parameter])
    assert optimizer.defaults["betas"] == (0.0, 0.99) and optimizer.defaults["eps"] == 1e-12
    optimizer.param_groups[0]["lr"] = 0.5
    parameter.grad = torch.tensor([4.0, -0.001])
    optimizer.step()
    torch.testing.assert_close(parameter.detach(), torch.tensor([0.5, -1.5]))
