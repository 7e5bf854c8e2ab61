"""The variance of the projections ⟨g_i, g_B⟩, against every per-example gradient written out."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rightbatch.noise import PerExampleNorms, per_example_gradients, squared_norm


@pytest.mark.parametrize("sizes", [[12], [5, 7], [1, 4, 7]])
@pytest.mark.parametrize("kind", ["mlp", "cnn", "lstm", "tied"])
def test_projection_variance(kind: str, sizes: list[int]) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(12, 1, 6, 6, dtype=torch.float64), torch.randint(0, 3, (12,))
    shared = nn.Linear(6, 6)
    model = {
        "mlp": nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, 3)),
        "cnn": nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)),
        "lstm": nn.Sequential(nn.Flatten(1, 2), Last(6, 5), nn.Linear(5, 3)),
        "tied": nn.Sequential(nn.Flatten(1, 2), shared, nn.Tanh(), shared, nn.Flatten(), nn.Linear(36, 3)),
    }[kind].double()
    each = per_example_gradients(model, F.cross_entropy, x, y)
    expected = (each @ each.mean(0)).var().item()
    norms = PerExampleNorms(model, projections=True)
    start, reference = 0, 10
    for size in sizes:
        norms.arm(size)
        loss = F.cross_entropy(model(x[start : start + size]), y[start : start + size])
        norms.verify(loss)
        (loss * size / reference).backward()
        start += size
    scale = reference / 12
    norm2 = squared_norm(p.grad for p in model.parameters()) * scale**2
    for _ in range(2):  # it can be read again
        found = norms.measurement(norm2, 12, scale)
        assert found.projection_variance == pytest.approx(expected, rel=1e-10)
        assert found.variance == pytest.approx((each - each.mean(0)).square().sum().item() / 11, rel=1e-10)
    norms.disarm()


class Last(nn.Module):
    """The last hidden state of a recurrent layer."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, hidden, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.lstm(x)[0]
        return hidden[:, -1]
