"""The plain control: whole batches in the order of the epochs; and rates found by walking downhill."""

import math
import time
from itertools import count, islice

import pytest
import torch
from torch import nn

from rightbatch import InputError
from rightbatch.data import Order
from rightbatch.studies.plain_steps import plain_batches, plain_steps
from rightbatch.studies.retuning import retune


@pytest.mark.parametrize("size", [3, 7, 10, 25])
def test_batches_are_whole_and_follow_the_epochs(size: int) -> None:
    x = torch.arange(10.0).unsqueeze(1)
    batches = list(islice(plain_batches(x, x + 1, size, seed=4), 12))
    assert all(len(a) == size and torch.equal(b, a + 1) for a, b in batches)
    order = Order(10, 4)
    expected = [i for epoch in range(31) for i in order.indices(epoch, 0, 10).tolist()]
    assert torch.cat([a for a, _ in batches]).flatten().tolist() == expected[: 12 * size]


def test_a_step_is_a_step_of_sgd(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(readings)))
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    x = torch.ones(8, 1)
    steps = plain_steps(model, nn.functional.mse_loss, x, 0 * x, 4, torch.optim.SGD(model.parameters(), 0.1), seed=0)
    made = []
    for step in islice(steps, 3):  # w <- w - 0.1 * 2 w
        made.append(step)
        time.perf_counter()  # what the caller does is not counted
    assert [step.loss for step in made] == pytest.approx([4, 4 * 0.64, 4 * 0.64**2])
    assert [(step.number, step.samples) for step in made] == [(1, 4), (2, 8), (3, 12)]
    assert [step.seconds for step in made] == [1, 2, 3]
    assert model.weight.item() == pytest.approx(2 * 0.8**3)


@pytest.mark.parametrize("start", [2.0**k for k in range(-4, 9)])
def test_the_walk_finds_the_bottom_from_either_side(start: float) -> None:
    limits = []

    def cost(rate: float, limit: float) -> float:
        limits.append(limit)
        return math.inf if rate > 64 else (math.log2(rate) - 2) ** 2

    found = retune(cost, start)
    assert found.rate == 4 and found.cost == 0 and found.enclosed
    assert list(found.tried) == sorted(found.tried) and len(found.tried) == len(limits)
    assert limits == sorted(limits, reverse=True)


def test_a_walk_cut_short_says_so() -> None:
    found = retune(lambda rate, _: rate, 1.0, tries=3)
    assert found.rate == 0.5 and not found.enclosed and len(found.tried) == 3
    lost = retune(lambda *_: math.nan, 1.0, tries=3)
    assert math.isnan(lost.rate) and lost.cost == math.inf and list(lost.tried) == [0.25, 0.5, 1.0]
    with pytest.raises(InputError, match="factor"):
        retune(lambda rate, _: rate, 1.0, factor=1.0)
