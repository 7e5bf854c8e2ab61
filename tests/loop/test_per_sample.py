"""Torch's schedulers counting samples: the same rates at the same samples whatever the batches."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import lr_scheduler

from rightbatch import AutoBatch, InputError, UnsupportedError
from rightbatch.loop import per_sample
from rightbatch.rules.batch_size import Piecewise

N = 64
SCHEDULERS: dict[str, Callable[[Any], lr_scheduler.LRScheduler]] = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 5, 0.5),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 32),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.2, 33),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1, 4), lr_scheduler.ExponentialLR(o, 0.9)], [4]
    ),
}


def trained(
    name: str, batch: Any, momentum: float = 0.9, stop: int = 0
) -> tuple[list[tuple[int, float, float]], AutoBatch, nn.Module, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    data = torch.randn(N, 3, dtype=torch.float64), torch.randint(0, 2, (N,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)
    auto = AutoBatch(model, optimizer, data, batch, per_sample(SCHEDULERS[name], samples=4), epochs=2)
    return go_on(auto, model, stop), auto, model, data


def go_on(auto: AutoBatch, model: nn.Module, stop: int = 0) -> list[tuple[int, float, float]]:
    seen, samples = [], auto.samples
    for x, y in auto:
        auto.backward(F.cross_entropy(model(x), y))
        if auto.step():
            group = auto.optimizer.param_groups[0]
            seen.append((samples, group["lr"], group.get("momentum", 0.0)))
            samples = auto.samples
            if stop and auto.steps == stop:
                break
    return seen


@pytest.mark.parametrize("name", SCHEDULERS)
def test_at_its_own_batch_it_is_the_scheduler(name: str) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1, momentum=0.9)
    scheduler, expected = SCHEDULERS[name](optimizer), []
    for k in range(32):
        group = optimizer.param_groups[0]
        expected.append((4 * k, group["lr"], group["momentum"]))
        optimizer.step()
        scheduler.step()
    assert [list(place) for place in trained(name, 4)[0]] == [
        pytest.approx(list(place), rel=1e-12) for place in expected
    ]


@pytest.mark.parametrize("name", SCHEDULERS)
def test_it_keeps_its_place_when_the_batch_changes(name: str) -> None:
    alone = {samples: rest for samples, *rest in trained(name, 4)[0]}
    changing = trained(name, Piecewise(((0, 4), (24, 8), (64, 16))))[0]
    assert len({b - a for (a, *_), (b, *_) in pairwise(changing)}) == 3
    assert all(rest == pytest.approx(alone[samples]) for samples, *rest in changing)


def test_it_goes_on_after_a_resume() -> None:
    whole = trained("OneCycleLR", 4)[0]
    _, auto, model, data = trained("OneCycleLR", 4, stop=11)
    again = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    other = AutoBatch(model, again, data, 4, per_sample(SCHEDULERS["OneCycleLR"], samples=4), epochs=2)
    other.load_state_dict(auto.state_dict())
    assert go_on(other, model) == whole[11:]


@pytest.mark.parametrize("name", ["StepLR", "OneCycleLR"])
def test_settings_that_the_scheduler_does_not_move_are_left_alone(name: str) -> None:
    model = nn.Linear(3, 2)
    data = torch.randn(N, 3), torch.randint(0, 2, (N,))
    groups = [{"params": [model.weight], "weight_decay": 0.1}, {"params": [model.bias], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.01, eps=1e-6, betas=(0.9, 0.99))
    auto = AutoBatch(model, optimizer, data, 4, per_sample(SCHEDULERS[name], samples=4), epochs=2)
    go_on(auto, model, stop=5)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    for group in optimizer.param_groups:
        assert (group["eps"], group["betas"][1]) == (1e-6, 0.99)
        assert (group["betas"][0] == 0.9) == (name == "StepLR")


def test_a_run_longer_than_one_cycle_is_refused_or_stays_at_its_last_rate() -> None:
    model = nn.Linear(3, 2)
    data = torch.randn(N, 3), torch.randint(0, 2, (N,))
    rule = per_sample(lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.2, 10), samples=4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with pytest.raises(InputError, match="ends after 10 steps of 4"):
        AutoBatch(model, optimizer, data, 4, rule, epochs=1)
    auto = AutoBatch(model, optimizer, data, 4, rule)
    rates = [rate for _, rate, _ in go_on(auto, model, stop=14)]
    assert rates[9:] == [pytest.approx(0.2 / 25 / 1e4)] * 5
    assert rates[8] > 1e3 * rates[9]


def test_refusals() -> None:
    with pytest.raises(UnsupportedError, match="ReduceLROnPlateau acts on a metric"):
        per_sample(lr_scheduler.ReduceLROnPlateau, samples=4)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="makes no scheduler"):
        per_sample(lr_scheduler.StepLR, samples=4)  # type: ignore[arg-type]  # its step size is missing
    with pytest.raises(InputError, match="made SGD"):
        per_sample(lambda optimizer: optimizer, samples=4)
    with pytest.raises(InputError, match="samples"):
        per_sample(SCHEDULERS["StepLR"], samples=0)
