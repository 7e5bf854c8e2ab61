"""The rule behind lr="auto", decision by decision."""

import math
from dataclasses import asdict

import pytest

from rightbatch.decision import Decision, Plan, StepContext
from rightbatch.errors import InputError
from rightbatch.measurements import Movement
from rightbatch.rules.lr import AveragedDistance, RangeTest, lr_rule
from rightbatch.rules.lr.averaged_distance import AveragedDistanceState


def now(loss: float, movement: Movement | None = None) -> StepContext:
    return StepContext(0, 0, 32, 1000, loss, 1.0, 0.1, movement=movement)


def decide(
    rule: AveragedDistance, state: AveragedDistanceState, loss: float, movement: Movement | None = None
) -> tuple[Decision, AveragedDistanceState]:
    with pytest.raises(StopIteration) as end:
        next(rule.decide(now(loss, movement), state))
    return end.value.value


def averaging(rule: AveragedDistance, prior: float = 0.02, ceiling: float = 1.0) -> AveragedDistanceState:
    return AveragedDistanceState(
        rule.test.start(1e-6), rule.initial * prior, prior=prior, ceiling=ceiling, base_loss=2.0, average_loss=1.0
    )


def test_begins_at_a_ten_thousandth_of_the_weights() -> None:
    decision, _ = AveragedDistance().start(Plan(1000, parameter_count=400, parameter_norm=8.0))
    assert decision.lr == pytest.approx(1e-4 * 8.01 / 20)


def test_the_range_test_hands_over_its_findings() -> None:
    rule = AveragedDistance(test=RangeTest(reference_steps=2))
    _, state = rule.start(Plan(1000, 100, 1.0))
    decisions = []
    for loss in (1.0, 1.0, 0.9, 0.6, 0.19, 0.1, 9.0):
        decision, state = decide(rule, state, loss)
        decisions.append(decision)
    assert [d.action for d in decisions] == ["snapshot", None, *["snapshot"] * 4, "rollback"]
    rates = [d.lr or 0 for d in decisions]
    good, diverged = rates[3], rates[5]  # each loss was measured after a step of the size decided before it
    assert rates[6] == pytest.approx(0.3 * 2 * good)
    assert (state.prior, state.ceiling) == pytest.approx((2 * good, 2 * diverged))
    assert decisions[6].code == "range-test-finished" and "7 steps" in decisions[6].reason


@pytest.mark.parametrize(("distance", "squares"), [(0.3, 40.0), (1e-3, 5.0)])
def test_agrees_with_the_formula(distance: float, squares: float) -> None:
    rule = AveragedDistance()
    decision, _ = decide(rule, averaging(rule), 1.0, Movement(distance, squares, 100))
    expected = (2.2 * distance / math.sqrt(squares)) ** 0.85 * 0.02**0.15
    assert decision.lr == pytest.approx(expected)


def test_never_exceeds_the_ceiling_and_starts_below_the_prior() -> None:
    rule = AveragedDistance()
    assert decide(rule, averaging(rule, ceiling=0.05), 1.0, Movement(9.0, 1.0, 3))[0].lr == 0.05
    assert decide(rule, averaging(rule), 1.0, Movement(0.0, 0.0, 0))[0].lr == pytest.approx(0.3 * 0.02)
    assert decide(rule, averaging(rule), 1.0, None)[0].lr == pytest.approx(0.3 * 0.02)


def test_keeps_an_average_every_hundred_steps() -> None:
    rule = AveragedDistance()
    state, kept = averaging(rule), []
    for step in range(250):
        decision, state = decide(rule, state, 1.0, Movement(0.1, 10.0, step))
        kept += [step] if decision.action == "snapshot" else []
    assert kept == [99, 199]


@pytest.mark.parametrize("losses", [(math.nan,), (math.inf,), (9.0,) * 20])
def test_a_loss_that_runs_away_halves_everything_and_returns(losses: tuple[float, ...]) -> None:
    rule = AveragedDistance()
    state, decision = averaging(rule), Decision()
    for loss in losses:
        decision, state = decide(rule, state, loss, Movement(0.1, 10.0, 5))
        if decision.action == "rollback":
            break
    assert decision.action == "rollback" and decision.code == "diverged"
    assert (state.prior, state.ceiling, state.step_size) == pytest.approx((0.01, 0.5, 0.003))
    assert AveragedDistanceState(**{**asdict(state), "test": state.test}) == state or math.isnan(state.average_loss)


@pytest.mark.parametrize("name", ["scale", "power", "initial", "start_size", "snapshot_every"])
def test_refuses_what_is_not_positive(name: str) -> None:
    with pytest.raises(InputError, match=name):
        AveragedDistance(**{name: 0})


@pytest.mark.parametrize("text", ["averaged-distance(snapshot_every=2.5)", "averaged-distance(test=3)"])
def test_refuses_what_is_of_the_wrong_type(text: str) -> None:
    with pytest.raises(InputError, match=r"AveragedDistance\.(snapshot_every is 2\.5|test is 3)"):
        lr_rule(text)
