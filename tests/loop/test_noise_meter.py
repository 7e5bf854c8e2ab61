"""Which estimator a run gets, why, and that it measures the gradient as it is."""

import weakref
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rightbatch.loop.noise_meter import NoiseMeter
from rightbatch.measurements import Measurement
from rightbatch.noise import PerExampleNorms, reference_measurement, squared_norm

GROUPS = 4  # micro-batches that are compared unless told otherwise


def data(n: int = 24) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 4, dtype=torch.float64, generator=generator)
    return x, torch.randint(0, 3, (n,), generator=generator)


def network(*between: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), *between, nn.Tanh(), nn.Linear(6, 3)).double()


class Scale(nn.Module):
    """A list of parameters is no module that hooks could watch."""

    def __init__(self) -> None:
        super().__init__()
        self.factors = nn.ParameterList([torch.ones(6)])

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factors[0]


class TiedByUse(nn.Module):
    """The second layer works with the first one's weight, which no look at the modules tells."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(4, 3, bias=False).double()

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = torch.tanh(self.encode(x))
        out: Tensor = self.encode(F.linear(hidden, self.encode.weight.T))
        return out


def meter_of(model: nn.Module) -> NoiseMeter:
    return NoiseMeter(model, [p for p in model.parameters() if p.requires_grad])


def measured(meter: NoiseMeter, model: nn.Module, sizes: list[int], reference: int = 10) -> Measurement | None:
    """One batch in pieces of `sizes`, each weighted m/reference, as the loop does it."""
    x, y = data()
    start = 0
    for size in sizes:
        meter.arm(size)
        loss = F.cross_entropy(model(x[start : start + size]), y[start : start + size])
        meter.verify(loss)
        (loss * size / reference).backward()
        meter.take(size, size / reference)
        start += size
    meter.gather()
    scale = reference / start
    norm2 = float(squared_norm([p.grad for p in model.parameters()])) * scale**2
    found = meter.measure(norm2, start, scale)
    expected = reference_norm2(model, start)
    assert norm2 == pytest.approx(expected, rel=1e-12)
    return found


def reference_norm2(model: nn.Module, n: int) -> float:
    x, y = data()
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(F.cross_entropy(model(x[:n]), y[:n]), parameters, allow_unused=True)
    return sum(float(g.square().sum()) for g in gradients if g is not None)


def clear(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = None


@pytest.mark.parametrize("sizes", [[24], [7, 1, 10, 6]])
def test_exact_norms_where_every_layer_has_a_rule(sizes: list[int]) -> None:
    model = network()
    meter = meter_of(model)
    assert "per-example norms" in meter.method
    assert meter.groups == 1
    found = measured(meter, model, sizes)
    exact = reference_measurement(model, F.cross_entropy, *data())
    assert found is not None and found.method == "per-example"
    assert found.variance == pytest.approx(exact.variance, rel=1e-11)
    assert found.signal == pytest.approx(exact.signal, rel=1e-9)
    meter.disarm()
    assert not any(module._forward_hooks for module in model.modules())


FALLBACKS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "own parameters": (lambda: network(Scale()), "'1.factors': ParameterList is used by another module"),
    "BatchNorm": (lambda: network(nn.BatchNorm1d(6)), "'1': BatchNorm1d in training mode: no per-example gradient"),
    "nested": (lambda: nn.Sequential(network(Scale()), nn.Identity()), "'0.1.factors': ParameterList"),
}


@pytest.mark.parametrize("name", FALLBACKS)
def test_the_reason_to_fall_back_names_the_module(name: str) -> None:
    make, reason = FALLBACKS[name]
    meter = meter_of(make())
    assert f"the gradients of {GROUPS} micro-batches, because" in meter.method
    assert reason in meter.method
    assert meter.groups == GROUPS


def test_groups_compared() -> None:
    """V̂ = (Σ m_j ‖g_j‖² - b ‖ḡ‖²)/(J - 1), written out."""
    model = network(Scale()).double()
    meter = meter_of(model)
    sizes = [7, 1, 10, 6]
    found = measured(meter, model, sizes)
    assert found is not None and found.method == "micro-batch"
    clear(model)
    x, y = data()
    total, start, whole = 0.0, 0, []
    for size in sizes:
        loss = F.cross_entropy(model(x[start : start + size]), y[start : start + size])
        gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))])
        total += size * float(gradient @ gradient)
        whole.append(size * gradient)
        start += size
    mean = torch.stack(whole).sum(0) / 24
    assert found.variance == pytest.approx((total - 24 * float(mean @ mean)) / 3, rel=1e-10)


def test_a_batch_norm_model_in_evaluation_mode_is_measured_exactly() -> None:
    model = network(nn.LayerNorm(6), nn.BatchNorm1d(6, affine=False)).eval()
    assert "exact" in meter_of(model).method


def test_tied_weights_are_found_at_the_first_loss() -> None:
    """Nothing speaks against exact norms before the first backward pass; then the meter changes over at once."""
    model = TiedByUse()
    meter = meter_of(model)
    assert not PerExampleNorms.uncovered(model) and "exact" in meter.method
    found = measured(meter, model, [8, 8, 8])
    assert "micro-batches, because" in meter.method and "encode" in meter.method
    assert found is not None and found.method == "micro-batch"
    assert not any(module._forward_hooks for module in model.modules())
    assert meter.groups == GROUPS


def test_tied_weights_in_one_piece_are_measured_from_the_next_batch_on() -> None:
    model = TiedByUse()
    meter = meter_of(model)
    assert measured(meter, model, [24]) is None
    meter.disarm()
    clear(model)
    assert measured(meter, model, [6, 6, 6, 6]) is not None


def test_a_layer_that_takes_no_part_is_found_at_the_first_measurement() -> None:
    model = network()
    model.append(nn.Identity())
    model[-1].register_module("unused", nn.Linear(2, 2).double())
    meter = meter_of(model)
    assert measured(meter, model, [12, 12]) is None
    assert "unused" in meter.method


def test_one_sample_measures_nothing() -> None:
    for model in (network(), network(Scale()).double()):
        assert measured(meter_of(model), model, [1]) is None


def test_a_batch_reopened_goes_on_with_what_it_had() -> None:
    """Enlarging: gradients so far are set aside, the pieces that follow are compared one by one."""
    model = network(Scale()).double()
    meter = meter_of(model)
    measured(meter, model, [5, 5])
    meter.reopen()
    assert all(p.grad is None for p in model.parameters())
    x, y = data()
    for start, size in ((10, 8), (18, 6)):
        loss = F.cross_entropy(model(x[start : start + size]), y[start : start + size])
        (loss * size / 10).backward()
        meter.take(size, size / 10)
    meter.gather()
    norm2 = float(squared_norm([p.grad for p in model.parameters()])) * (10 / 24) ** 2
    assert norm2 == pytest.approx(reference_norm2(model, 24), rel=1e-11)
    found = meter.measure(norm2, 24, 10 / 24)
    clear(model)
    fresh = measured(meter_of(model), model, [5, 5, 8, 6])
    assert found is not None and fresh is not None
    assert found.variance == pytest.approx(fresh.variance, rel=1e-10)


def test_disarm_forgets_the_batch() -> None:
    model = network(Scale()).double()
    meter = meter_of(model)
    measured(meter, model, [5, 5])
    meter.disarm()
    clear(model)
    found = measured(meter, model, [12, 12])
    clear(model)
    fresh = measured(meter_of(model), model, [12, 12])
    assert found == fresh is not None


@pytest.mark.parametrize("read", [True, False])
def test_nothing_of_a_batch_is_held_once_it_has_ended(read: bool) -> None:
    # with projections every layer's input and output gradient are kept until the batch is read
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    meter = NoiseMeter(model, list(model.parameters()), projections=True)
    between: list[weakref.ref[Tensor]] = []
    model[1].register_forward_hook(lambda module, inputs, output: between.append(weakref.ref(output)))
    meter.arm(5)
    loss = model(torch.randn(5, 3)).square().mean()
    meter.verify(loss)
    loss.backward()
    meter.take(5, 1.0)
    storage = weakref.ref(meter._estimator._passes[-1].uses[0].kept[0])  # type: ignore[attr-defined]
    if read:
        assert meter.measure(squared_norm(p.grad for p in model.parameters()), 5, 1.0) is not None
    meter.disarm()
    del loss
    assert storage() is None
    assert between[0]() is None


def test_the_average_goes_through_its_state() -> None:
    model = network()
    meter, again = meter_of(model), meter_of(model)
    for number in range(3):
        found = measured(meter, model, [24])
        assert found is not None
        meter.absorb(found, 24 * (number + 1))
        meter.disarm()
        clear(model)
    again.load_state_dict(meter.state_dict(), 72)
    assert again.noise == meter.noise is not None
    assert meter.noise is not None and meter.noise.measurements == 3
    assert again.method == meter.method
