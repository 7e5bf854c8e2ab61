"""Random small networks of the supported layers: always the same numbers as one backward pass per example."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rightbatch.noise import PerExampleNorms, reference_measurement, squared_norm

B, T, W = 4, 4, 4  # positions and features alike in number, so that layers go in any order


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Twice(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.inner(x).tanh())


class Answer(nn.Module):
    """The output of a layer that returns more."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        inner = self.inner
        return inner(x, x, x)[0] if isinstance(inner, nn.MultiheadAttention) else inner(x)[0]


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor, self.table = nn.Parameter(torch.randn(W)), nn.Parameter(torch.randn(T, W))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor + self.table


LAYERS = [
    lambda: nn.Linear(W, W),
    lambda: nn.Sequential(nn.Linear(W, 9, bias=False), nn.ReLU(inplace=True), nn.Linear(9, W)),
    lambda: nn.LayerNorm(W),
    lambda: nn.RMSNorm(W),
    lambda: nn.GroupNorm(2, T),
    lambda: nn.InstanceNorm1d(T, affine=True),
    lambda: nn.PReLU(T),
    lambda: nn.Conv1d(T, T, 3, padding="same", padding_mode="circular"),
    lambda: nn.Conv1d(T, T, 3, padding=2, dilation=2, groups=2),
    lambda: nn.ConvTranspose1d(T, T, 3, padding=1),
    lambda: nn.Sequential(
        nn.Unflatten(1, (1, T)), nn.Conv2d(1, 3, 3), nn.Tanh(), nn.ConvTranspose2d(3, 1, 3), nn.Flatten(1, 2)
    ),
    lambda: Answer(nn.MultiheadAttention(W, 2, batch_first=True)),
    lambda: nn.TransformerEncoderLayer(W, 2, 5, 0.0, batch_first=True),
    lambda: Answer(nn.LSTM(W, W, batch_first=True)),
    lambda: Answer(nn.GRU(W, W // 2, batch_first=True, bidirectional=True)),
    Scale,
]
WRAPS = [lambda make: make, lambda make: lambda: Residual(make()), lambda make: lambda: Twice(make())]
layer = st.builds(lambda make, wrap: wrap(make), st.sampled_from(LAYERS), st.sampled_from(WRAPS))


@settings(max_examples=25, deadline=None)
@given(
    makes=st.lists(layer, min_size=1, max_size=4),
    tokens=st.booleans(),
    tie=st.booleans(),
    frozen=st.integers(0, 6),
    seed=st.integers(0, 99),
)
def test_any_network(makes: list, tokens: bool, tie: bool, frozen: int, seed: int) -> None:
    torch.manual_seed(seed)
    body = [make() for make in makes]
    if tokens:
        embed, head = nn.Embedding(7, W, padding_idx=2), nn.Linear(W, 7, bias=seed % 2 == 0)
        if tie:
            head.weight = embed.weight
        model, x = nn.Sequential(embed, *body, head).double(), torch.randint(0, 7, (B, T))
    else:
        model, x = nn.Sequential(*body, nn.Linear(W, 3)).double(), torch.randn(B, T, W, dtype=torch.float64)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    own = [p for p in model[-2].parameters(recurse=False)]
    if frozen == 0 and not isinstance(model[-2], nn.MultiheadAttention) and own:
        own[0].requires_grad_(False)
    y = torch.randn(B, dtype=torch.float64)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return ((output.sin() + output.square()).flatten(1).sum(1) * target).mean()

    exact = reference_measurement(model, loss, x, y)
    norms = PerExampleNorms(model)
    norms.arm(B)
    value = loss(model(x), y)
    norms.verify(value)
    value.backward()
    norms.disarm()
    found = norms.measurement(squared_norm(p.grad for p in model.parameters()), B)
    assert found.variance == pytest.approx(exact.variance, rel=1e-9)  # of ill-conditioned networks too
