"""The tournament: which rates are compared, which forks go on, the decay, weight decay by the measured gap."""

import math
from dataclasses import replace
from typing import Any

import pytest

from rightbatch.decision import Decision, Outlook, Plan, StepContext
from rightbatch.errors import InputError
from rightbatch.rules.lr import Tournament
from rightbatch.rules.lr.tournament import TournamentState

PLAN = Plan(1000, lr=0.1, own_optimizer=True, matrices=2)
NOW = StepContext(0, 0, 32, 1000, 1.0, 1.0, 0.1, wanted=32)
OVER = TournamentState((0.012,), rounds=2, batch_size=32)


def decided(now: StepContext, state: TournamentState, rule: Tournament | None = None) -> tuple[Decision, Any]:
    try:
        next((rule or Tournament()).decide(now, state))
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    raise AssertionError("the rule tries no steps")


@pytest.mark.parametrize(
    ("plan", "middle"),
    [(PLAN, 0.012), (replace(PLAN, matrices=1), 0.036), (replace(PLAN, own_optimizer=False, matrices=1), 0.1)],
)
def test_the_rates_compared_are_around_its_own_or_those_of_the_optimizer_given(plan: Plan, middle: float) -> None:
    decision, state = Tournament().start(plan)
    assert sorted(state.lrs) == pytest.approx([middle / 3, middle, 3 * middle])
    assert decision.lr == min(state.lrs) and decision.code == "initial"


def test_an_optimizer_without_a_rate_is_refused() -> None:
    with pytest.raises(InputError, match="learning rate of 0"):
        Tournament().start(replace(PLAN, own_optimizer=False, lr=0.0))


@pytest.mark.parametrize(
    ("left", "steps", "samples"),
    [(1000, (12, 24), 128), (350, (6, 12), 112), (20, (3, 3), 64), (None, (12, 24), 128), (10_000, (12, 24), 128)],
)
def test_short_runs_have_short_rounds(left: float | None, steps: tuple[int, int], samples: int) -> None:
    """12 % of 350 steps are 42 passes, half of 84; 1 % of 350 batches of 32 are 112 samples; two batches at least."""
    rule, (_, state) = Tournament(), Tournament().start(PLAN)
    first, state = rule.round(Outlook(32, left), state)
    assert first is not None and (first.steps, first.samples) == (steps[0], samples)
    _, kept, state = rule.judged((0.3, 0.2, 0.1), state)
    second, _ = rule.round(Outlook(32, left and left / 2), state)
    assert second is not None and second.steps == steps[1] and second.lrs == state.lrs
    assert kept == (1, 2)


def test_the_worst_is_dropped_then_the_best_wins() -> None:
    rule, (_, state) = Tournament(), Tournament().start(PLAN)
    large, _, middle = state.lrs
    _, kept, state = rule.judged((0.5, 0.9, 0.7), state)
    assert kept == (2, 0) and state.lrs == (middle, large)  # the best takes its turn last
    decision, kept, state = rule.judged((0.3, 0.4), state)
    assert kept == (0,) and state.lrs == (middle,) and decision.lr == middle and decision.code == "tournament"
    assert rule.round(Outlook(32, 900), state) == (None, state)


def test_forks_that_diverged_are_out_and_if_all_are_the_rate_is_smaller() -> None:
    rule, (_, start) = Tournament(), Tournament().start(PLAN)
    _, kept, state = rule.judged((math.nan, 0.9, math.inf), start)
    assert kept == (1,) and state.lrs == (min(start.lrs),)
    decision, kept, state = rule.judged((math.nan,) * 3, start)
    assert kept == () and decision.lr == pytest.approx(min(start.lrs) / 3) and state.lrs == (decision.lr,)


@pytest.mark.parametrize(("progress", "share"), [(0.0, 1.0), (0.25, 0.75), (1.0, 0.0), (None, 1.0)])
def test_the_rate_decays_to_zero_at_the_horizon_and_is_constant_without_one(
    progress: float | None, share: float
) -> None:
    decision, _ = decided(replace(NOW, progress=progress), OVER)
    assert decision.lr == pytest.approx(0.012 * share)


def test_the_rate_grows_with_the_root_of_the_batch() -> None:
    decision, _ = decided(replace(NOW, wanted=128), OVER)
    assert decision.lr == pytest.approx(0.024)


def test_weights_decay_only_where_validation_is_worse_than_training() -> None:
    """The gap is averaged: half of 1 - 0.5/1 at the first validation; full decay from a gap of 0.18 on."""
    decision, state = decided(replace(NOW, loss=0.5, validations=1, valid_loss=1.0), OVER)
    assert state.gap == pytest.approx(0.25) and decision.settings == {"weight_decay": pytest.approx(0.2)}
    decision, state = decided(replace(NOW, loss=0.5, validations=1, valid_loss=1.0), state)
    assert not decision.settings  # the same validation counts once
    decision, _ = decided(replace(NOW, loss=1.0, validations=1, valid_loss=1.0), OVER)
    assert decision.settings == {"weight_decay": 0.0}
    decision, _ = decided(replace(NOW, loss=0.9, validations=1, valid_loss=1.0), replace(OVER, lrs=(0.048,)))
    assert decision.settings["weight_decay"] == pytest.approx(0.2 * 0.5 * (0.05 - 0.03) / 0.15)


def test_without_forks_the_middle_rate_is_taken() -> None:
    decision, state = Tournament().without_rounds(Tournament().start(PLAN)[1])
    assert decision.lr == 0.012 and state.lrs == (0.012,) and decision.code == "no-forks"
