"""V and s from two gradients, one after the other: exact in expectation where the weights stand still."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rightbatch import AutoBatch, InputError
from rightbatch.noise import squared_norm
from rightbatch.noise.estimators.successive import SuccessiveGradients

SIGNAL, NOISE = 0.3, 5.0  # s and V of each weight
# a weight for each pair of signs, so that a sum over weights is an expectation
PAIRS = torch.tensor([[-1.0, -1.0, 1.0, 1.0], [-1.0, 1.0, -1.0, 1.0]], dtype=torch.float64)


def gradient(signs: Tensor, samples: int) -> Tensor:
    return math.sqrt(SIGNAL) + math.sqrt(NOISE / samples) * signs


def measured(estimator: SuccessiveGradients, weights: list[Tensor], samples: int, scale: float = 1.0):
    norm2 = squared_norm([w.grad for w in weights]) * scale**2
    found = estimator.measurement(norm2, samples, scale)
    estimator.disarm()
    return found


@pytest.mark.parametrize(("first", "second", "scale"), [(8, 8, 1.0), (4, 64, 1.0), (64, 3, 0.25)])
def test_expectation_is_the_truth_for_any_sizes(first: int, second: int, scale: float) -> None:
    weights = [nn.Parameter(torch.zeros(1, dtype=torch.float64)), nn.Parameter(torch.zeros(3, dtype=torch.float64))]
    estimator = SuccessiveGradients(weights)
    for signs, b in zip(PAIRS, (first, second), strict=True):
        for weight, value in zip(weights, gradient(signs, b).split([1, 3]), strict=True):
            weight.grad = value / scale
        found = measured(estimator, weights, b, scale)
        if b is first and signs is PAIRS[0]:
            assert math.isnan(found.variance) and math.isnan(found.signal)
    assert found.variance == pytest.approx(4 * NOISE, rel=1e-12)
    assert found.signal == pytest.approx(4 * SIGNAL, rel=1e-12)
    assert (found.samples, found.method) == (second, "successive")
    assert all(math.isnan(error) for error in found.standard_error)


def test_enlarged_batch_is_compared_with_the_one_before_and_not_with_itself() -> None:
    weight = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    estimator = SuccessiveGradients([weight])
    weight.grad = gradient(PAIRS[0], 4)
    measured(estimator, [weight], 4)
    weight.grad = torch.full_like(weight, 100.0)
    estimator.measurement(4e4, 8)
    estimator.reopen()
    weight.grad = gradient(PAIRS[1], 16)
    assert measured(estimator, [weight], 16).variance == pytest.approx(4 * NOISE, rel=1e-12)


def test_batch_given_up_leaves_the_one_before_it() -> None:
    weight = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    estimator = SuccessiveGradients([weight])
    weight.grad = gradient(PAIRS[0], 4)
    measured(estimator, [weight], 4)
    weight.grad = torch.full_like(weight, 100.0)
    estimator.measurement(4e4, 8)
    weight.grad = None
    estimator.disarm()
    weight.grad = gradient(PAIRS[1], 16)
    assert measured(estimator, [weight], 16).signal == pytest.approx(4 * SIGNAL, rel=1e-12)


def test_missing_gradients_count_as_zero_and_frozen_weights_not_at_all() -> None:
    used, unused = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3))
    estimator = SuccessiveGradients([used, unused, nn.Parameter(torch.zeros(7), requires_grad=False)])
    used.grad, unused.grad = torch.tensor([1.0, 2.0]), torch.ones(3)
    measured(estimator, [used, unused], 4)
    used.grad, unused.grad = torch.tensor([3.0, -1.0]), None
    found = measured(estimator, [used, unused], 4)
    assert found.signal == pytest.approx(1.0)
    assert found.variance == pytest.approx((4 + 9 + 3) * 2)
    used.grad, unused.grad = None, torch.ones(3)
    assert measured(estimator, [used, unused], 4).signal == 0.0


def test_half_precision_is_compared_in_single() -> None:
    weight = nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))
    estimator = SuccessiveGradients([weight])
    for _ in range(2):
        weight.grad = torch.tensor([1.0, 256.0], dtype=torch.bfloat16)
        found = measured(estimator, [weight], 4, scale=1 / 3)
    assert found.signal == pytest.approx(65537 / 9, rel=1e-6)


def test_round_trip_and_copies() -> None:
    weight = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    estimator, resumed = SuccessiveGradients([weight]), SuccessiveGradients([weight])
    resumed.load_state_dict(estimator.state_dict())
    assert resumed.state_dict()["gradients"] == []
    weight.grad = gradient(PAIRS[0], 4)
    measured(estimator, [weight], 4)
    state = estimator.state_dict()
    weight.grad = gradient(PAIRS[1], 8)
    resumed.load_state_dict(state)
    assert measured(resumed, [weight], 8) == measured(estimator, [weight], 8)
    assert torch.equal(state["gradients"][0], gradient(PAIRS[0], 4)), "a state is a copy"


def test_refuses_no_sample() -> None:
    with pytest.raises(InputError, match="0 samples"):
        SuccessiveGradients([nn.Parameter(torch.zeros(1))]).measurement(1.0, 0)


def test_in_a_run_the_mean_gradients_of_two_steps_are_compared() -> None:
    x, y = torch.randn(64, 3, dtype=torch.float64), torch.randn(64, 1, dtype=torch.float64)
    model = nn.Linear(3, 1).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    auto = AutoBatch(model, optimizer, (x, y), batch_size="16", noise="successive(every=1)", micro_batch=7)
    means, mean = [], torch.zeros(4, dtype=torch.float64)
    for part_x, part_y in auto:
        loss = F.mse_loss(model(part_x), part_y)
        parts = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
        mean = mean + torch.cat([p.reshape(-1) for p in parts]) * len(part_x) / 16
        auto.backward(loss)
        if auto.step():
            means.append(mean)
            mean = torch.zeros_like(mean)
        if len(means) == 2:
            break
    assert auto.noise is not None and auto.noise.measurements == 1
    assert auto.noise.signal == pytest.approx((means[0] @ means[1]).item(), rel=1e-9)
    assert auto.noise.variance == pytest.approx((means[0] - means[1]).square().sum().item() * 8, rel=1e-9)
