"""Which states are kept, what goes back, and when a run is over."""

import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rightbatch import DivergedError
from rightbatch.loop.averaging import ScheduleFree
from rightbatch.loop.guard import (
    CUT,
    FIRST_STEPS,
    KEEP_EVERY_STEPS,
    MOST_FAILURES,
    RUNAWAY_STEPS,
    Guard,
)
from rightbatch.loop.snapshot import Snapshot


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
    guard.snapshot(0)
    return net, optimizer, guard


@pytest.mark.parametrize("make", [torch.optim.Adam, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)])
def test_parameters_buffers_and_optimizer_go_back_as_often_as_asked(make: Any, identical: Any) -> None:
    net = model()
    optimizer = make(net.parameters())
    kept = Snapshot(net, optimizer, None)
    for _ in range(3):
        step(net, optimizer)
    kept.take(3)
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
    kept = Snapshot(net, optimizer, None)
    kept.take(0)
    with torch.no_grad():
        net[0].weight.fill_(7.0)
        net[0].bias.fill_(7.0)
    kept.restore()
    assert bool((net[0].weight == 7).all()) and not bool((net[0].bias == 7).any())


def test_an_averaging_run_begins_again_from_its_average() -> None:
    net = model()
    averaging = ScheduleFree(net, None)
    kept = Snapshot(net, averaging.optimizer, averaging)
    averaging.optimizer.param_groups[0]["lr"] = 0.1
    for _ in range(3):
        net(torch.randn(8, 3)).square().mean().backward()
        averaging.step(8, 0.1)
    kept.take(3)
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
        kept.append(guard.snapshot_step)
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
    assert (guard.snapshot_step > 0) == keeps


def test_a_rule_that_guards_says_itself_what_to_keep() -> None:
    _, _, guard = guarded(by_rule=True)
    for number in range(500):
        guard.before_step(number, 1.0)
    assert guard.snapshot_step == 0
    guard.snapshot(500)
    assert guard.snapshot_step == 500


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
    assert again.snapshot_step == guard.snapshot_step == 100 and again.cut == CUT
    again.restore()
    assert equal(state(other), expected)
    for failure in range(MOST_FAILURES - 2):
        assert again.fail(failure, "", cut=False) is None
    assert again.fail(9, "", cut=False) is not None
    assert math.isnan(guard.state_dict()["_smooth_loss"])


# Divergence in finite numbers.


def told(guard: Guard, losses: list[float]) -> tuple[int, str]:
    """The number of the first loss that is called a divergence, and why."""
    for number, loss in enumerate(losses):
        if reason := guard.divergence(loss):
            return number, reason
        guard.before_step(number, loss)
    return -1, ""


def test_ten_losses_in_a_row_out_of_all_proportion_are_a_divergence() -> None:
    """Begun at 1 to 1.9, mean 1.45, the limit is 1.45 + 9 · 1.45 + 0.1 = 14.6."""
    first = [1.0 + 0.1 * k for k in range(FIRST_STEPS)]
    number, reason = told(guarded()[2], [*first, *[1.0] * 30, *[14.7] * 20])
    assert number == FIRST_STEPS + 30 + RUNAWAY_STEPS - 1
    assert reason == "the loss has run away from 1 at first to 14.7"
    assert told(guarded()[2], [*first, *[14.5] * 500]) == (-1, ""), "bad, but not out of all proportion"
    assert told(guarded()[2], [*first, *([14.7] * (RUNAWAY_STEPS - 1) + [1.0]) * 20]) == (-1, ""), "outliers"
    assert told(guarded()[2], [*[1.0] * 5, *[1e9] * 5, *[1.0] * 50, *[1e9] * 50]) == (-1, ""), "a rough beginning"


@pytest.mark.parametrize("shift", [0.0, -1.0, -50.0])
def test_losses_that_may_be_negative_have_their_range_for_a_measure(shift: float) -> None:
    """-1 to 1 about zero: 9 times the range of 2, and 0.1."""
    first = [shift + (-1.0) ** k for k in range(FIRST_STEPS)]
    limit = shift + 9 * max(abs(shift), 2.0) + 0.1
    assert told(guarded()[2], first + [limit - 0.01] * 50) == (-1, "")
    assert told(guarded()[2], first + [limit + 0.01] * 50)[0] == FIRST_STEPS + RUNAWAY_STEPS - 1


def test_a_gain_that_is_lost_for_a_hundred_steps_is_a_divergence() -> None:
    learned = [2.3] * 10 + [0.3] * 800
    # From 0.3 towards 2.25 at 1 % a step: past 0.3 + 0.9 · 2.0 = 2.1 after ln(1.95/0.15)/0.01 = 256 steps.
    number, reason = told(guarded()[2], learned + [2.25] * 400)
    assert abs(number - 810 - 256) < 10
    assert reason == "the loss has stayed near 2.25, having come from 2.3 to 0.301 before"
    assert told(guarded()[2], learned + [9.0] * 50 + [0.3] * 300) == (-1, ""), "a spike that passes"
    assert told(guarded()[2], learned + [1e9, *[0.3] * 9] * 100) == (-1, ""), "outliers"
    assert told(guarded()[2], learned + [1.6] * 2000) == (-1, ""), "risen again, not lost"
    assert told(guarded()[2], [2.3, 2.1] * 300 + [2.4] * 500) == (-1, ""), "nothing was gained"


def test_the_noise_of_single_samples_is_neither_gain_nor_loss() -> None:
    """Squared normal numbers, the losses of a regression at batch size 1 that learns nothing. The slow average scatters
    by √2·√(0.01/1.99) = 0.1 about 1: to gain half it would have to go five times as far."""
    torch.manual_seed(0)
    assert told(guarded()[2], torch.randn(30_000).square().tolist()) == (-1, "")


def test_no_state_is_kept_while_half_of_the_gain_is_lost() -> None:
    _, _, guard = guarded()
    for number, loss in enumerate([2.4] * 10 + [1.0] * 250 + [1.9] * 300):
        guard.before_step(number, loss)
    assert guard.snapshot_step == 200


def test_steps_of_a_lost_run_are_no_good_steps() -> None:
    """Five divergences of the slow kind end a run as well, if no hundred good steps come between."""
    _, _, guard = guarded()
    number = 0
    for loss in [2.3] * 10 + [0.1] * 400:
        guard.before_step(number := number + 1, loss)
    for failure in range(1, MOST_FAILURES + 1):
        while not (reason := guard.divergence(2.3)):
            guard.before_step(number := number + 1, 2.3)
        error = guard.fail(number, reason, cut=True)
        assert (error is not None) == (failure == MOST_FAILURES)


def test_a_rule_that_guards_judges_itself() -> None:
    assert told(guarded(by_rule=True)[2], [1.0] * 20 + [1e9] * 50) == (-1, "")


def test_the_state_remembers_a_divergence_under_way() -> None:
    losses = [1.0] * 30 + [100.0] * 4
    _, _, guard = guarded()
    _, _, again = guarded()
    assert told(guard, losses) == (-1, "")
    again.load_state_dict(guard.state_dict())
    assert told(again, [100.0] * 10) == told(guard, [100.0] * 10)
    assert told(again, [100.0])[0] == 0
