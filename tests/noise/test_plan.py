"""How each layer is read, and that the reasons are those of the sizes."""

import pytest
import torch
from torch import nn

from rightbatch.noise.layers.coverage import RULES
from rightbatch.noise.layers.plan import MOST_PROBES, Choice, cheapest


def choice(layer: nn.Module, *shape: int, probes: int = 1) -> Choice:
    embedding = isinstance(layer, nn.Embedding)
    x = torch.zeros(shape, dtype=torch.long) if embedding else torch.zeros(shape, requires_grad=True)
    output = layer(x)
    rule = RULES[type(layer)]
    return cheapest(rule, layer, rule.keep(layer, (x,), output), torch.zeros_like(output), probes)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(512, 512), (16, 512)),
        (nn.Linear(512, 512), (16, 1, 512)),
        (nn.Linear(512, 512), (16, 2, 512)),
        (nn.Linear(8, 8), (8, 4, 8)),
        (nn.Conv2d(512, 512, 3), (32, 512, 3, 3)),
        (nn.Conv2d(32, 32, 3, groups=32), (32, 32, 16, 16)),
        (nn.Embedding(100, 16), (16, 8)),
        (nn.Embedding(10000, 256), (64, 1)),
        (nn.LayerNorm(64), (16, 128, 64)),
    ],
    ids=lambda value: str(value),
)
def test_exact_where_it_is_free_or_nothing_is_cheaper(layer: nn.Module, shape: tuple[int, ...]) -> None:
    found = choice(layer, *shape)
    assert (found.method, found.probes) == ("exact", 0)
    assert found.reason


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(128, 384), (16, 128, 128)),
        (nn.Linear(48, 48), (64, 49, 48)),
        (nn.Conv1d(32, 64, 5), (32, 32, 100)),
        (nn.Conv2d(1, 32, 3), (128, 1, 28, 28)),
        (nn.Conv2d(32, 64, 3), (128, 32, 14, 14)),
        (nn.Conv2d(64, 64, 3, groups=2), (64, 64, 14, 14)),
        (nn.ConvTranspose2d(64, 32, 4, 2, 1), (32, 64, 8, 8)),
        (nn.Embedding(10000, 128), (128, 128)),
    ],
    ids=lambda value: str(value),
)
def test_a_random_projection_where_exact_norms_are_dear(layer: nn.Module, shape: tuple[int, ...]) -> None:
    found = choice(layer, *shape)
    assert found.method == "sketch"
    assert "of the layer's own work" in found.reason


def test_small_batches_take_more_probes() -> None:
    layer = nn.Linear(512, 512)
    probes = [choice(layer, b, 128, 512).probes for b in (2, 4, 8, 16, 32, 512)]
    assert probes == sorted(probes, reverse=True)
    assert probes[0] == MOST_PROBES and probes[-1] == 1
    assert choice(layer, 128, 128, 512, probes=3).probes == 3  # no fewer than asked for


def test_a_frozen_weight_is_exact() -> None:
    layer = nn.Conv2d(32, 64, 3)
    layer.weight.requires_grad_(False)
    assert choice(layer, 128, 32, 14, 14).method == "exact"
