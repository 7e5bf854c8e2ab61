"""Every layer rule against one backward pass per example."""

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rightbatch.noise import PerExampleNorms, measure, per_example_gradients, reference_measurement, squared_norm

# torch itself warns of the copy that "same" padding of an even kernel takes
pytestmark = [
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
    pytest.mark.filterwarnings("ignore:enable_nested_tensor is True"),
]
spec = importlib.util.spec_from_file_location(
    "noise_cases", Path(__file__).resolve().parents[2] / "benchmarks" / "noise_cases.py"
)
cases = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cases)
B, TOKENS, Squared, built = cases.B, cases.TOKENS, cases.Squared, cases.built
LAYERS = {f"{layer}, {setting}": case for layer, group in cases.CASES.items() for setting, case in group.items()}


class Block(nn.Module):
    """Embedding, position mixing, residual and LayerNorm: a transformer block without learned attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.query, self.value = nn.Embedding(TOKENS, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.last, self.head = nn.LayerNorm(8), nn.Linear(8, TOKENS, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        h = self.embed(ids)
        h = h + F.scaled_dot_product_attention(self.query(h), h, self.value(h), is_causal=True)
        h = h + self.down(F.gelu(self.up(self.norm(h))))
        return self.head(self.last(h)).mean(1)


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3), nn.GroupNorm(2, 6),
        nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(24, 5),
    )  # fmt: skip


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "cnn": (cnn, lambda: torch.randn(B, 1, 8, 8)),
    "mlp": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 5)),
        lambda: torch.randn(B, 6),
    ),
    "transformer block": (Block, cases.ids(5)),
}


def by_hooks(model: nn.Module, x: Tensor, y: Tensor, reduction: str = "mean"):
    norms = PerExampleNorms(model)
    norms.arm(B)
    Squared(reduction)(model(x), y).backward()
    norms.disarm()
    scale = 1.0 if reduction == "mean" else 1.0 / B
    return norms.measurement(squared_norm(p.grad for p in model.parameters()) * scale**2, B, scale)


def norms_spread(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return per_example_gradients(model, Squared("mean"), x, y).square().sum(1).std().item() / math.sqrt(B)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", [*LAYERS, *NETWORKS])
def test_hooks_agree_with_one_backward_pass_per_sample(name: str, reduction: str) -> None:
    model, x, y = built((LAYERS | NETWORKS)[name])
    exact = reference_measurement(model, Squared("mean"), x, y)
    found = by_hooks(model, x, y, reduction)
    assert found.gradient_norm2 == pytest.approx(exact.gradient_norm2, rel=1e-10)
    assert found.variance == pytest.approx(exact.variance, rel=1e-10)
    assert found.signal == pytest.approx(exact.signal, rel=1e-10, abs=1e-10 * exact.variance)
    # the spread of ‖g_i‖² pins the single norms, not only their sum
    assert found.standard_error.variance == pytest.approx(norms_spread(model, x, y), rel=1e-8)


@pytest.mark.parametrize("name", [*LAYERS, *NETWORKS])
def test_hooks_in_float32(name: str) -> None:
    model, x, y = built((LAYERS | NETWORKS)[name])
    exact = reference_measurement(model, Squared("mean"), x, y)
    single, _, _ = built((LAYERS | NETWORKS)[name], torch.float32)
    single.load_state_dict(model.state_dict())
    found = by_hooks(single, x.float() if x.is_floating_point() else x, y.float())
    assert found.variance == pytest.approx(exact.variance, rel=1e-4)
    assert found.signal == pytest.approx(exact.signal, abs=1e-4 * (abs(exact.signal) + exact.variance / B))


@pytest.mark.parametrize("name", [*LAYERS, *NETWORKS])
def test_measure_has_the_reference_and_its_jackknife(name: str) -> None:
    model, x, y = built((LAYERS | NETWORKS)[name])
    exact = reference_measurement(model, Squared("mean"), x, y)
    found = measure(model, Squared("mean"), x, y, method="per-example")
    assert found.reason == "all samples in one backward pass"
    assert found.variance == pytest.approx(exact.variance, rel=1e-10)
    assert found.signal == pytest.approx(exact.signal, rel=1e-10, abs=1e-10 * exact.variance)
    assert found.standard_error == pytest.approx(exact.standard_error, rel=1e-8)


def test_squared_norm_keeps_its_digits_on_large_tensors() -> None:
    # float32 sums of 4·10^6 equal terms in one go lose about four digits; 1e-6 leaves room for rounding of the rows
    big = torch.rand(4096, 1024)
    exact = big.double().square().sum().item()
    assert squared_norm([big, None]) == pytest.approx(exact, rel=1e-6)
    assert squared_norm([big.view(-1)]) == pytest.approx(exact, rel=1e-6)
    assert squared_norm([torch.full((10,), 300.0, dtype=torch.float16)]) == 9e5  # squares beyond half precision
    assert squared_norm([torch.tensor(3.0), torch.tensor([4.0])]) == 25.0
    assert squared_norm([]) == 0.0
