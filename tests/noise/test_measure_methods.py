"""`measure` by the estimators of training: what it says of each layer, and that it leaves no trace."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rightbatch
from rightbatch import UnsupportedError
from rightbatch.noise import measure, per_example_gradients


def case() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(32 * 16 * 16, 5),
    )  # fmt: skip
    return model, torch.randn(48, 3, 20, 20), torch.randint(0, 5, (48,))


def test_exact_readings_are_told_layer_by_layer() -> None:
    model, x, y = case()
    found = measure(model, F.cross_entropy, x, y)
    assert [(layer.path, layer.layer, layer.method) for layer in found.layers] == [
        ("0", "Conv2d", "exact"), ("1", "GroupNorm", "exact"), ("3", "Conv2d", "exact"), ("6", "Linear", "exact"),
    ]  # fmt: skip
    assert all(layer.reason for layer in found.layers)


@pytest.mark.parametrize("method", ["sketch", "subset", "norm-layers"])
def test_other_readings(method: str) -> None:
    """V̂ within 5 of its stated errors, the exact value for what is read exactly, and nothing changed."""
    model, x, y = case()
    marks = [torch.full_like(p, 7.0) for p in model.parameters()]
    for parameter, mark in zip(model.parameters(), marks, strict=True):
        parameter.grad = mark
    generator = torch.get_rng_state()
    found = measure(model, F.cross_entropy, x, y, method=method)
    assert all(p.grad is mark for p, mark in zip(model.parameters(), marks, strict=True))
    assert torch.equal(generator, torch.get_rng_state())
    assert not any(module._forward_hooks for module in model.modules())
    assert found.method == method and found.reason == "asked for" and found.cost_s > 0
    if method == "norm-layers":
        for part in (model[0], model[3], model[6]):  # type: ignore[index]
            part.requires_grad_(False)
    each = per_example_gradients(model.double(), F.cross_entropy, x.double(), y)
    exact = (each - each.mean(0)).square().sum().item() / 47
    if method == "norm-layers":
        assert found.variance == pytest.approx(exact, rel=1e-4)
        assert [layer.path for layer in found.layers] == ["1"]
    else:
        assert abs(found.variance - exact) <= 5 * found.standard_error.variance
    if method == "sketch":
        methods = {layer.path: layer.method for layer in found.layers}
        assert methods["3"] == "sketch" and methods["6"] == "exact"


def test_what_cannot_be_measured_so_is_refused() -> None:
    model, x, y = case()
    optimizer = torch.optim.Adam(model.parameters())
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    with pytest.raises(UnsupportedError, match="plain metric"):
        measure(model, F.cross_entropy, x, y, method="sketch", optimizer=optimizer)
    with pytest.raises(rightbatch.InputError, match="method='successive' was given; it is one of"):
        measure(model, F.cross_entropy, x, y, method="successive")
