"""Which states are kept, what goes back, and when a run is over."""

import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rightbatch import DivergedError
from rightbatch.training.averaging import ScheduleFree
from rightbatch.training.guard import CUT, KEEP_EVERY_STEPS, MOST_FAILURES, Guard
from rightbatch.training.kept import Kept


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def step(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    net(torch.randn(8, 3)).square().mean().backward()
    optimizer.step()


def state(net: nn.Module) -> list[Tensor]:
    return [value.clone() for value in net.state_dict().values()]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(map(torch.equal, a, b))


def guarded(by_rule: bool = False) -> tuple[nn.Module, torch.optim.Optimizer, Guard]:
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    guard = Guard(net, optimizer, None, by_rule)
    guard.keep(0)
    return net, optimizer, guard


@pytest.mark.parametrize("make", [torch.optim.Adam, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)])
def test_parameters_buffers_and_optimizer_go_back_as_often_as_asked(make: Any, identical: Any) -> None:
    net = model()
    optimizer = make(net.parameters())
    kept = Kept(net, optimizer, None)
    for _ in range(3):
        step(net, optimizer)
    kept.keep(3)
    before, inner = state(net), optimizer.state_dict()["state"]
    inner = {key: {k: v.clone() for k, v in part.items()} for key, part in inner.items()}
    for _ in range(2):
        for _ in range(4):
            step(net, optimizer)
        assert not equal(state(net), before)
        kept.restore()
        assert equal(state(net), before)
        assert identical(optimizer.state_dict()["state"], inner)
    assert kept.step == 3


def test_learning_rates_do_not_go_back() -> None:
    _, optimizer, guard = guarded()
    optimizer.param_groups[0]["lr"] = 0.025
    guard.restore()
    assert optimizer.param_groups[0]["lr"] == 0.025


def test_frozen_parameters_are_not_kept() -> None:
    net = model()
    net[0].weight.requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    kept = Kept(net, optimizer, None)
    kept.keep(0)
    with torch.no_grad():
        net[0].weight.fill_(7.0)
        net[0].bias.fill_(7.0)
    kept.restore()
    assert bool((net[0].weight == 7).all()) and not bool((net[0].bias == 7).any())


def test_an_averaging_run_begins_again_from_its_average() -> None:
    net = model()
    averaging = ScheduleFree(net, None)
    kept = Kept(net, averaging.optimizer, averaging)
    averaging.optimizer.param_groups[0]["lr"] = 0.1
    for _ in range(3):
        net(torch.randn(8, 3)).square().mean().backward()
        averaging.step(8, 0.1)
    kept.keep(3)
    average = averaging.average()
    for _ in range(3):
        net(torch.randn(8, 3)).square().mean().backward()
        averaging.step(8, 0.1)
    kept.restore()
    weights = torch.cat([p.detach().reshape(-1) for p in net.parameters()])
    assert torch.equal(weights, average) and torch.equal(averaging.average(), average)
    assert averaging.movement.steps == 0 and not averaging.optimizer.state_dict()["state"]


def test_a_state_is_kept_every_hundred_steps_of_a_calm_loss() -> None:
    _, _, guard = guarded()
    kept = []
    for number in range(3 * KEEP_EVERY_STEPS + 1):
        guard.before_step(number, 1.0)
        kept.append(guard.kept_step)
    assert sorted(set(kept)) == [0, 100, 200, 300]
    assert kept.index(100) == 100


@pytest.mark.parametrize(("loss", "keeps"), [(2.0, True), (2.3, False), (1e9, False)])
def test_no_state_is_kept_once_the_loss_has_doubled(loss: float, keeps: bool) -> None:
    """The smoothed loss may be twice the lowest, and 0.1 more."""
    _, _, guard = guarded()
    for number in range(50):
        guard.before_step(number, 1.0)
    for number in range(50, 150):
        guard.before_step(number, loss)
    assert (guard.kept_step > 0) == keeps


def test_a_rule_that_guards_says_itself_what_to_keep() -> None:
    _, _, guard = guarded(by_rule=True)
    for number in range(500):
        guard.before_step(number, 1.0)
    assert guard.kept_step == 0
    guard.keep(500)
    assert guard.kept_step == 500


def test_failures_cut_and_at_last_end_the_run() -> None:
    net, optimizer, guard = guarded()
    before = state(net)
    for number in range(1, MOST_FAILURES):
        step(net, optimizer)
        assert guard.fail(number, "the loss became nan", cut=True) is None
        assert guard.cut == CUT**number
        assert equal(state(net), before)
    step(net, optimizer)
    error = guard.fail(77, "the loss became nan", cut=True)
    assert isinstance(error, DivergedError)
    assert "step 77: the loss became nan, 5 times in a row" in str(error)
    assert equal(state(net), before)


def test_a_rule_that_guards_cuts_itself() -> None:
    _, _, guard = guarded(by_rule=True)
    guard.fail(1, "the loss became nan", cut=False)
    assert guard.cut == 1.0


def test_a_hundred_good_steps_forgive() -> None:
    _, _, guard = guarded()
    for _ in range(3):
        for failure in range(MOST_FAILURES - 1):
            assert guard.fail(failure, "", cut=False) is None
        for number in range(KEEP_EVERY_STEPS):
            guard.before_step(number, 1.0)
    for failure in range(MOST_FAILURES - 1):
        assert guard.fail(failure, "", cut=False) is None
    for number in range(KEEP_EVERY_STEPS - 1):
        guard.before_step(number, 1.0)
    assert guard.fail(0, "", cut=False) is not None, "99 do not"


def test_the_state_round_trip() -> None:
    net, optimizer, guard = guarded()
    for number in range(120):
        if number % 40 == 0:
            step(net, optimizer)
        guard.before_step(number, 1.0 / (1 + number))
    guard.fail(120, "", cut=True)
    file = io.BytesIO()
    torch.save(guard.state_dict(), file)
    file.seek(0)
    expected = state(net)
    other, _, again = guarded()
    again.load_state_dict(torch.load(file, weights_only=True))
    assert again.kept_step == guard.kept_step == 100 and again.cut == CUT
    again.restore()
    assert equal(state(other), expected)
    for failure in range(MOST_FAILURES - 2):
        assert again.fail(failure, "", cut=False) is None
    assert again.fail(9, "", cut=False) is not None
    assert math.isnan(guard.state_dict()["_smooth_loss"])
