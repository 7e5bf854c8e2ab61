"""Losses that compare the samples of a batch with each other: their batches are not cut."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from rightbatch import AutoBatch, fit
from rightbatch.loop.coupling import coupling

X = torch.randn(96, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(96) % 3
Objective = Callable[[Tensor, Tensor], Tensor]


def contrastive(z: Tensor, y: Tensor) -> Tensor:
    z = F.normalize(z, dim=1)
    return F.cross_entropy(z @ z.T / 0.5 - 1e9 * torch.eye(len(z)), (torch.arange(len(z)) + 1) % len(z))


def by_einsum(z: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(torch.einsum("nd,md->nm", z, z), (torch.arange(len(z)) + 1) % len(z))


def redundancy(z: Tensor, y: Tensor) -> Tensor:
    return ((z - z.mean(0)).T @ (z - z.mean(0)) / len(z) - torch.eye(z.shape[1])).square().sum()


def pairs(z: Tensor, y: Tensor) -> Tensor:
    return (torch.cdist(z, z) * (y[:, None] == y[None])).mean()


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


@pytest.mark.parametrize("objective", [contrastive, by_einsum, redundancy, pairs])
def test_is_seen_in_the_graph(objective: Objective) -> None:
    assert coupling(objective(network()(X), Y))


class LowRank(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w, self.a, self.b = (nn.Parameter(torch.randn(*shape)) for shape in ((6, 3), (6, 2), (2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.w + self.a @ self.b)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(2, 4), nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.one(x.view(-1, 3, 2))
        out: Tensor = self.two(tokens, tokens, tokens)[0].mean(1)[:, :3]
        return out


@pytest.mark.parametrize(
    "model",
    [
        network,
        LowRank,
        Attention,
        lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3)),
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 8)), nn.LayerNorm(8), nn.Linear(8, 3)),
        lambda: nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 4, 3), nn.Flatten(), nn.Linear(16, 3)),
    ],
)
def test_is_not_seen_where_there_is_none(model: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    assert not coupling(F.cross_entropy(model()(X), Y))


@pytest.mark.parametrize("settings", [{}, {"noise": "micro-batch(every=1)"}, {"batch_size": "sweet-spot(initial=32)"}])
def test_batches_of_a_loop_of_ones_own_are_whole_from_the_first_on(settings: dict[str, Any]) -> None:
    """What was cut before it was seen is restarted; the steps are those of the plain loop."""
    model, twin = network(), network()
    settings = {"batch_size": 32, **settings}
    auto = AutoBatch(model, torch.optim.SGD(model.parameters(), lr=0.1), (X, Y), epochs=2, **settings)
    optimizer, steps = torch.optim.SGD(twin.parameters(), lr=0.1), 0
    with pytest.warns(UserWarning, match="samples"):
        for x, y in auto:
            auto.backward(contrastive(model(x), y))
            if auto.step():
                steps += 1
                assert auto.last["batch_size"] == len(x)
                optimizer.zero_grad()
                contrastive(twin(x), y).backward()
                optimizer.step()
    assert steps >= 5 and auto.samples == 192
    for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_micro_batch_cuts_them_all_the_same() -> None:
    model = network()
    auto = AutoBatch(model, torch.optim.SGD(model.parameters(), lr=0.1), (X, Y), 32, micro_batch=8)
    sizes = []
    for x, y in auto:
        sizes.append(len(x))
        auto.backward(contrastive(model(x), y))
        auto.step()
    assert sizes == [8] * 12


def test_fit_finds_it_out_before_training_and_says_so() -> None:
    with pytest.warns(UserWarning, match="depend on each other"):
        run = fit(network(), (X, Y), loss=contrastive, batch_size=48, lr=0.1, epochs=2, progress=False)
    assert [row["batch_size"] for row in run.history] == [48] * 4
