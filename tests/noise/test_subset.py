"""Exact norms of a few samples drawn at random: unbiased for those of all."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rightbatch import InputError
from rightbatch.measurements import Measurement
from rightbatch.noise import PerExampleNorms, per_example_gradients, reference_measurement, squared_norm
from rightbatch.noise.layers.reading import Subset


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def measured(norms: PerExampleNorms, model: nn.Module, x: Tensor, y: Tensor, sizes: list[int]) -> Measurement:
    model.zero_grad()
    for part_x, part_y in zip(x.split(sizes), y.split(sizes), strict=True):
        norms.arm(len(part_x))
        F.mse_loss(model(part_x), part_y).mul(len(part_x) / len(x)).backward()
    norms.disarm()
    return norms.measurement(squared_norm(p.grad for p in model.parameters()), len(x))


@pytest.mark.parametrize("sizes", [[12], [7, 3, 2]])
def test_unbiased_with_the_error_of_drawing_without_replacement(sizes: list[int]) -> None:
    model, x, y = network(), torch.randn(12, 3).double(), torch.randn(12, 2).double()
    exact = reference_measurement(model, F.mse_loss, x, y)
    norms = PerExampleNorms(model, Subset(3, seed=1))
    draws = 400
    found = torch.tensor([measured(norms, model, x, y, sizes).variance for _ in range(draws)], dtype=torch.float64)
    n = per_example_gradients(model, F.mse_loss, x, y).square().sum(1)
    spread2 = sum(
        len(part) ** 2 * part.var().item() * (1 / min(3, len(part)) - 1 / len(part)) for part in n.split(sizes)
    )
    sd = math.sqrt(spread2) / 11  # V̂ = (b Σ ‖c_i‖² b - ...)/(b - 1), and n_i = b² ‖c_i‖²
    # the mean of 400 draws within 4 of its errors; their spread is known to 1/sqrt(800) = 3.5 %, taken 4 times
    assert found.mean().item() == pytest.approx(exact.variance, abs=4 * sd / math.sqrt(draws))
    assert found.std().item() == pytest.approx(sd, rel=0.15)


def test_subset_of_all_is_exact() -> None:
    model, x, y = network(), torch.randn(9, 3).double(), torch.randn(9, 2).double()
    exact = reference_measurement(model, F.mse_loss, x, y)
    found = measured(PerExampleNorms(model, Subset(9)), model, x, y, [9])
    assert found.variance == pytest.approx(exact.variance, rel=1e-10)
    assert found.signal == pytest.approx(exact.signal, rel=1e-10)
    every = measured(PerExampleNorms(model), model, x, y, [9])
    assert found.standard_error.variance == pytest.approx(every.standard_error.variance, rel=1e-10)
    assert (found.method, every.method) == ("subset", "per-example")


def test_standard_error_is_that_of_fresh_batches() -> None:
    # 1500 batches of 30 with 8 looked at: V̂ varies by which are looked at and by which there are. Its sd is known to
    # 1/sqrt(3000) = 2 % for normal values and these are heavier-tailed: 10 %
    model = network()
    norms = PerExampleNorms(model, Subset(8))
    found = []
    for _ in range(1500):
        x, y = torch.randn(30, 3).double(), torch.randn(30, 2).double()
        found.append(measured(norms, model, x, y, [30]))
    spread = torch.tensor([m.variance for m in found]).std().item()
    said = math.sqrt(sum(m.standard_error.variance**2 for m in found) / len(found))
    assert said == pytest.approx(spread, rel=0.1)


def test_draws_are_its_own_repeatable_and_resumed() -> None:
    model, x, y = network(), torch.randn(12, 3).double(), torch.randn(12, 2).double()
    norms, again = (PerExampleNorms(model, Subset(3, seed=5)) for _ in range(2))
    before = torch.get_rng_state()
    first = [measured(norms, model, x, y, [12]).variance for _ in range(4)]
    assert torch.equal(before, torch.get_rng_state())
    assert len(set(first)) > 1
    assert [measured(again, model, x, y, [12]).variance for _ in range(4)] == first
    resumed = PerExampleNorms(model, Subset(3))
    resumed.load_state_dict(norms.state_dict())
    for _ in range(3):
        assert measured(resumed, model, x, y, [12]) == measured(norms, model, x, y, [12])


def test_layer_used_twice_is_read_with_its_cross_terms() -> None:
    layer = nn.Linear(3, 3).double()
    model = nn.Sequential(layer, nn.Tanh(), layer)
    x, y = torch.randn(9, 3).double(), torch.randn(9, 3).double()
    exact = reference_measurement(model, F.mse_loss, x, y)
    assert measured(PerExampleNorms(model, Subset(9)), model, x, y, [9]).variance == pytest.approx(exact.variance)


def test_refuses_subsets_without_a_spread() -> None:
    with pytest.raises(InputError, match="at least 2"):
        Subset(1)
