"""Every layer rule against one backward pass per example."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rightbatch.noise import PerExampleNorms, measure, per_example_gradients, reference_measurement, squared_norm

# torch itself warns of the copy that "same" padding of an even kernel takes
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
B, TOKENS = 7, 11
CONV_MAPS = {"small map": 4, "large map": 9}  # on both sides of the choice between Gram and formed gradients


def images(channels: int, side: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(B, channels, side, side)


def tokens(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randint(0, TOKENS, (B, *shape))


def frozen(module: nn.Module, *names: str) -> nn.Module:
    for name in names:
        module.get_parameter(name).requires_grad_(False)
    return module


LAYERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "linear": (lambda: nn.Linear(5, 4), lambda: torch.randn(B, 5)),
    "linear, no bias": (lambda: nn.Linear(5, 4, bias=False), lambda: torch.randn(B, 5)),
    "linear, weight frozen": (lambda: frozen(nn.Linear(5, 4), "weight"), lambda: torch.randn(B, 5)),
    "linear, bias frozen": (lambda: frozen(nn.Linear(5, 4), "bias"), lambda: torch.randn(B, 5)),
    "linear, 3-D, formed": (lambda: nn.Linear(5, 4), lambda: torch.randn(B, 6, 5)),
    "linear, 3-D, Gram": (lambda: nn.Linear(20, 30), lambda: torch.randn(B, 3, 20)),
    "linear, 3-D, Gram, no bias": (lambda: nn.Linear(20, 30, bias=False), lambda: torch.randn(B, 3, 20)),
    "linear, 3-D, weight frozen": (lambda: frozen(nn.Linear(5, 4), "weight"), lambda: torch.randn(B, 6, 5)),
    "linear, 3-D, one position": (lambda: nn.Linear(5, 4), lambda: torch.randn(B, 1, 5)),
    "linear, 4-D": (lambda: nn.Linear(5, 4), lambda: torch.randn(B, 2, 3, 5)),
    "linear, strided input": (lambda: nn.Linear(5, 4), lambda: torch.randn(5, 6, B).permute(2, 1, 0)),
    "embedding": (lambda: nn.Embedding(TOKENS, 3), tokens(6)),
    "embedding, one token": (lambda: nn.Embedding(TOKENS, 3), tokens()),
    "embedding, all tokens equal": (lambda: nn.Embedding(TOKENS, 3), lambda: torch.full((B, 6), 2)),
    "embedding, padding": (lambda: nn.Embedding(TOKENS, 3, padding_idx=0), lambda: torch.randint(0, 3, (B, 6))),
    "embedding, one token, padding": (lambda: nn.Embedding(TOKENS, 3, padding_idx=1), lambda: torch.arange(B) % 3),
    "embedding, 3-D ids": (lambda: nn.Embedding(TOKENS, 3), tokens(2, 4)),
    "layer norm": (lambda: nn.LayerNorm(5), lambda: torch.randn(B, 5)),
    "layer norm, positions": (lambda: nn.LayerNorm(5), lambda: torch.randn(B, 4, 5)),
    "layer norm, two dimensions": (lambda: nn.LayerNorm((4, 5)), lambda: torch.randn(B, 3, 4, 5)),
    "layer norm, no bias": (lambda: nn.LayerNorm(5, bias=False), lambda: torch.randn(B, 4, 5)),
    "layer norm, weight frozen": (lambda: frozen(nn.LayerNorm(5), "weight"), lambda: torch.randn(B, 4, 5)),
    "group norm": (lambda: nn.GroupNorm(2, 6), images(6, 4)),
    "group norm, one group": (lambda: nn.GroupNorm(1, 6), lambda: torch.randn(B, 6, 5)),
    "group norm, no positions": (lambda: nn.GroupNorm(2, 6), lambda: torch.randn(B, 6)),
    "group norm, bias frozen": (lambda: frozen(nn.GroupNorm(3, 6), "bias"), images(6, 4)),
    "conv, 1x1": (lambda: nn.Conv2d(3, 5, 1), images(3, 4)),
    "conv, rectangle": (lambda: nn.Conv2d(3, 4, (3, 2), (1, 2), (2, 0), (1, 2)), lambda: torch.randn(B, 3, 7, 8)),
    "conv, same": (lambda: nn.Conv2d(3, 4, 4, padding="same"), images(3, 6)),
    "conv, valid": (lambda: nn.Conv2d(3, 4, 3, padding="valid"), images(3, 6)),
    "conv, reflect": (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), images(3, 6)),
    "conv, circular": (lambda: nn.Conv2d(3, 4, 3, padding=(1, 2), padding_mode="circular"), images(3, 6)),
    "conv, depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4), images(4, 6)),
    "conv, bias frozen": (lambda: frozen(nn.Conv2d(3, 4, 3), "bias"), images(3, 6)),
    "conv, weight frozen": (lambda: frozen(nn.Conv2d(3, 4, 3), "weight"), images(3, 6)),
    "conv, channels last": (
        lambda: nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last),
        lambda: torch.randn(B, 3, 6, 6).to(memory_format=torch.channels_last),
    ),
}
for where, side in CONV_MAPS.items():
    LAYERS |= {
        f"conv, padding, {where}": (lambda: nn.Conv2d(16, 24, 3, padding=1), images(16, side)),
        f"conv, no bias, {where}": (lambda: nn.Conv2d(16, 24, 3, bias=False), images(16, side)),
        f"conv, stride, {where}": (lambda: nn.Conv2d(16, 24, 3, stride=2, padding=1), images(16, side)),
        f"conv, dilation, {where}": (lambda: nn.Conv2d(16, 24, 3, dilation=2, padding=2), images(16, side)),
        f"conv, groups, {where}": (lambda: nn.Conv2d(16, 24, 3, groups=2), images(16, side)),
    }


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
    "transformer block": (Block, tokens(5)),
}


class Squared(nn.Module):
    """Each example's loss is a fixed random quadratic of its own output, so that no gradient is zero by symmetry."""

    def __init__(self, reduction: str) -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        each = (output.flatten(1).sin() * target.view(-1, 1) + output.flatten(1).square()).sum(1)
        return each.mean() if self.reduction == "mean" else each.sum()


def built(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(1)
    make, given = (LAYERS | NETWORKS)[name]
    model, x, y = make().to(dtype), given(), torch.randn(B).to(dtype)
    for parameter in model.parameters():  # no ones and zeros, as normalisation layers start with
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model, x.to(dtype) if x.is_floating_point() else x, y


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
def test_hooks_agree_with_one_backward_pass_per_example(name: str, reduction: str) -> None:
    model, x, y = built(name)
    exact = reference_measurement(model, Squared("mean"), x, y)
    found = by_hooks(model, x, y, reduction)
    assert found.gradient_norm2 == pytest.approx(exact.gradient_norm2, rel=1e-10)
    assert found.variance == pytest.approx(exact.variance, rel=1e-10)
    assert found.signal == pytest.approx(exact.signal, rel=1e-10, abs=1e-10 * exact.variance)
    # the spread of ‖g_i‖² pins the single norms, not only their sum
    assert found.standard_error.variance == pytest.approx(norms_spread(model, x, y), rel=1e-8)


@pytest.mark.parametrize("name", [*LAYERS, *NETWORKS])
def test_hooks_in_float32(name: str) -> None:
    model, x, y = built(name)
    exact = reference_measurement(model, Squared("mean"), x, y)
    single, _, _ = built(name, torch.float32)
    single.load_state_dict(model.state_dict())
    found = by_hooks(single, x.float() if x.is_floating_point() else x, y.float())
    assert found.variance == pytest.approx(exact.variance, rel=1e-4)
    assert found.signal == pytest.approx(exact.signal, abs=1e-4 * (abs(exact.signal) + exact.variance / B))


@pytest.mark.parametrize("name", [*LAYERS, *NETWORKS])
def test_measure_has_the_reference_and_its_jackknife(name: str) -> None:
    model, x, y = built(name)
    exact = reference_measurement(model, Squared("mean"), x, y)
    found = measure(model, Squared("mean"), x, y, method="per-example")
    assert found.reason == "all examples in one backward pass"
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
