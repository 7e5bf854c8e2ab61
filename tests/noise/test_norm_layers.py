"""The noise of normalisation layers alone: exact for these parameters, whatever the other layers are."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rightbatch import UnsupportedError
from rightbatch.measurements import Measurement
from rightbatch.noise import reference_measurement, squared_norm
from rightbatch.noise.estimators.norm_layers import NormLayerNorms


class Unknown(nn.Module):
    """A layer without a rule, and too odd to be run again: it counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.calls = nn.Parameter(torch.eye(6)), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x @ self.weight * self.calls**0


NETWORKS = {
    "LayerNorm": lambda: nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3)),
    "RMSNorm": lambda: nn.Sequential(nn.Linear(5, 6), nn.RMSNorm(6), Unknown(), nn.Linear(6, 3)),
    "GroupNorm": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(12, 3)
    ),
    "transformer": lambda: nn.Sequential(
        nn.Unflatten(1, (5, 1)), nn.Linear(1, 6),
        nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True), nn.Flatten(), nn.Linear(30, 3),
    ),
}  # fmt: skip


def normalising(model: nn.Module) -> list[nn.Parameter]:
    kinds = nn.LayerNorm | nn.RMSNorm | nn.GroupNorm
    return [p for m in model.modules() if isinstance(m, kinds) for p in m.parameters(recurse=False)]


def measured(model: nn.Module, x: Tensor, y: Tensor, sizes: list[int]) -> Measurement:
    norms = NormLayerNorms(model)
    for part_x, part_y in zip(x.split(sizes), y.split(sizes), strict=True):
        norms.arm(len(part_x))
        loss = F.cross_entropy(model(part_x), part_y, reduction="sum")
        norms.verify(loss)
        loss.backward()
    norms.disarm()
    everything = squared_norm(p.grad for p in model.parameters())
    return norms.measurement(everything / len(x) ** 2, len(x), 1 / len(x))


@pytest.mark.parametrize("sizes", [[9], [4, 5]])
@pytest.mark.parametrize("network", NETWORKS)
def test_agrees_with_the_slow_way_over_the_same_parameters(network: str, sizes: list[int]) -> None:
    model = NETWORKS[network]().double()
    x, y = torch.randn(9, 5).double(), torch.randint(0, 3, (9,))
    found = measured(model, x, y, sizes)
    kept = set(normalising(model))
    for parameter in model.parameters():
        parameter.requires_grad_(parameter in kept)
    exact = reference_measurement(model, F.cross_entropy, x, y)
    assert found.gradient_norm2 == pytest.approx(exact.gradient_norm2, rel=1e-10)
    assert found.variance == pytest.approx(exact.variance, rel=1e-10)
    assert found.signal == pytest.approx(exact.signal, rel=1e-10)
    assert found.method == "norm-layers"
    assert len(found.layers) == sum(isinstance(m, nn.LayerNorm | nn.RMSNorm | nn.GroupNorm) for m in model.modules())


def test_says_what_it_looked_at() -> None:
    found = measured(NETWORKS["transformer"](), torch.randn(4, 5), torch.randint(0, 3, (4,)), [4])
    assert found.reason.startswith("2 LayerNorm only: 24 of ")


def test_leaves_layers_without_trained_parameters_alone() -> None:
    model = nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.LayerNorm(6, elementwise_affine=False), nn.Linear(6, 3))
    assert len(measured(model, torch.randn(4, 5), torch.randint(0, 3, (4,)), [4]).layers) == 1


def test_refusals() -> None:
    bare = nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6, elementwise_affine=False))
    with pytest.raises(UnsupportedError, match=r"Sequential has no normalisation layer.*use 'per-example'"):
        NormLayerNorms(bare)
    with pytest.raises(UnsupportedError, match="no normalisation layer"):
        NormLayerNorms(nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6)))
    with pytest.raises(UnsupportedError, match="'1': BatchNorm1d in training mode"):
        NormLayerNorms(nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.LayerNorm(6)))
