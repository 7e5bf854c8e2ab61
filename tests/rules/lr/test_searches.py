"""Armijo and Barzilai-Borwein, their generators stepped by hand."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rightbatch.decision import Decision, LRRule, Outcome, Plan, StepContext, Trial
from rightbatch.errors import InputError
from rightbatch.measurements import UNKNOWN, Measurement, NoiseEstimate
from rightbatch.rules.lr import Armijo, BarzilaiBorwein
from rightbatch.rules.lr.backtracking import CarriedStep

N = 1000


def parabola(curvature: float, x: float = 1.0, samples: int = 100) -> tuple[StepContext, Callable[[Trial], Outcome]]:
    """F(x) = curvature · x²/2, exactly."""
    gradient = curvature * x
    now = StepContext(5, 0, samples, N, curvature * x * x / 2, gradient**2, 0.1)

    def answer(trial: Trial) -> Outcome:
        return Outcome(curvature * (x - trial.step * gradient) ** 2 / 2, curvature if trial.gradient else math.nan)

    return now, answer


def search(
    rule: LRRule, now: StepContext, state: Any, answer: Callable[[Trial], Outcome]
) -> tuple[Decision, Any, list[Trial]]:
    trials, generator = [], rule.decide(now, state)
    try:
        trials.append(next(generator))
        while True:
            trials.append(generator.send(answer(trials[-1])))
    except StopIteration as stop:
        return *stop.value, trials


def armijo_twin(now: StepContext, answer: Callable[[Trial], Outcome], step: float, c: float, factor: float) -> float:
    while not answer(Trial(step)).loss <= now.loss - c * step * now.gradient_norm2:
        step *= factor
    return step


@settings(max_examples=80, deadline=None)
@given(
    curvature=st.floats(1e-3, 1e3),
    first=st.floats(1e-3, 1e3),
    c=st.floats(0.05, 0.9),
    factor=st.floats(0.2, 0.8),
)
def test_armijo_takes_the_first_step_that_satisfies_the_inequality(
    curvature: float, first: float, c: float, factor: float
) -> None:
    now, answer = parabola(curvature)
    rule = Armijo(initial=first, c=c, factor=factor, rounding=0.0, most_trials=200)
    decision, state, trials = search(rule, now, rule.start(Plan(N))[1], answer)
    expected = armijo_twin(now, answer, first, c, factor)
    assert decision.lr == state.step == trials[-1].step == expected
    assert all(answer(trial).loss > now.loss - c * trial.step * now.gradient_norm2 for trial in trials[:-1])
    assert not any(trial.gradient for trial in trials)


def test_armijo_on_a_parabola_stops_below_two_times_one_minus_c_over_the_curvature() -> None:
    now, answer = parabola(curvature=4.0)  # accepts a step up to 2·(1 - 0.1)/4 = 0.45
    decision, _, trials = search(Armijo(), now, CarriedStep(1.0), answer)
    assert decision.lr == 0.25 and [trial.step for trial in trials] == [1.0, 0.5, 0.25]
    assert decision.code == "backtracked"


def test_armijo_carries_the_step_and_doubles_it_where_the_batch_grew() -> None:
    now, answer = parabola(curvature=1e-3)
    assert search(Armijo(), now, CarriedStep(0.25), answer)[0].lr == 0.25
    grown = replace(now, grew=True)
    assert search(Armijo(), grown, CarriedStep(0.25), answer)[0].lr == 0.5
    assert search(Armijo(growth_on_enlarge=1.0), grown, CarriedStep(0.25), answer)[0].lr == 0.25


def test_armijo_resets() -> None:
    now, answer = parabola(curvature=1e-3, samples=100)
    decision, *_ = search(Armijo(reset="gradual"), now, CarriedStep(0.25), answer)
    assert decision.lr == pytest.approx(0.25 * 2**0.1)
    assert search(Armijo(initial=3.0, reset="always"), now, CarriedStep(0.25), answer)[0].lr == 3.0


RULES: list[tuple[LRRule, Any]] = [(Armijo(), CarriedStep(1.0)), (BarzilaiBorwein(), CarriedStep(1.0))]


@pytest.mark.parametrize(("rule", "state"), RULES)
def test_a_hopeless_search_ends_and_costs_the_carried_step_one_halving(rule: LRRule, state: Any) -> None:
    now, _ = parabola(1.0)
    for loss in (math.nan, math.inf, now.loss + 1):
        decision, after, trials = search(rule, now, state, lambda trial, loss=loss: Outcome(loss))  # type: ignore[misc]
        assert len(trials) == 30 and decision.lr == trials[-1].step == 2.0**-29
        assert after.step == 0.5 and decision.code == "search-failed"


@pytest.mark.parametrize(("rule", "state"), RULES)
def test_without_a_slope_nothing_is_searched(rule: LRRule, state: Any) -> None:
    now, answer = parabola(1.0)
    for flat in (
        replace(now, gradient_norm2=0.0),
        replace(now, gradient_norm2=1e-17),
        replace(now, gradient_norm2=math.nan),
        replace(now, loss=math.nan),
        replace(now, loss=math.inf),
    ):
        decision, after, trials = search(rule, flat, state, answer)
        assert not trials and after == state and decision.lr == state.step


def test_rounding_of_the_loss_does_not_cut_the_step() -> None:
    now, _ = parabola(1e-5)
    now = replace(now, loss=0.3)
    one_bit_up = Outcome(0.3 + 2.0**-25)
    assert search(Armijo(), now, CarriedStep(1.0), lambda _: one_bit_up)[0].lr == 1.0
    assert len(search(Armijo(rounding=0.0), now, CarriedStep(1.0), lambda _: one_bit_up)[2]) == 30


def test_barzilai_borwein_steps_by_one_over_the_curvature_met_before() -> None:
    now, answer = parabola(curvature=8.0, samples=N)
    decision, state, trials = search(BarzilaiBorwein(), now, CarriedStep(1.0), answer)
    assert decision.lr == 1 / 8 and state.step == pytest.approx(1 / 8)
    assert [trial.gradient for trial in trials] == [True] * 4
    # From far too small a step as well, which backtracking alone never lengthens; the new one is for the next batch.
    decision, state, _ = search(BarzilaiBorwein(), now, CarriedStep(1e-4), answer)
    assert decision.lr == 1e-4 and state.step == pytest.approx(1 / 8)


def noisy(now: StepContext, share: float, scale: float = math.inf) -> StepContext:
    """`now` with V̂/b the given share of ‖g_B‖²."""
    variance = share * now.batch_size * now.gradient_norm2
    measurement = Measurement(now.batch_size, now.gradient_norm2, variance, (1 - share) * now.gradient_norm2)
    noise = NoiseEstimate(variance, 1.0, scale, scale / 2, 2 * scale, UNKNOWN, 1)
    return replace(now, measurement=measurement, noise=noise)


def test_barzilai_borwein_agrees_with_the_formula() -> None:
    now, answer = parabola(curvature=2.0, samples=300)
    alpha, share, b = 0.1, 0.4, 300
    proposal = (1 - share * (1 - b / N)) / 2.0
    expected = (1 - b / N) * alpha + (b / N) * proposal
    decision, state, trials = search(BarzilaiBorwein(), noisy(now, share), CarriedStep(alpha), answer)
    assert decision.lr == alpha and state.step == pytest.approx(expected)
    assert decision.evidence["proposal"] == pytest.approx(proposal) and decision.evidence["curvature"] == 2.0
    assert len(trials) == 1
    by_noise = (1 - 300 / 400) * alpha + (300 / 400) * proposal
    _, state, _ = search(BarzilaiBorwein(weight="noise"), noisy(now, share, 100.0), CarriedStep(alpha), answer)
    assert state.step == pytest.approx(by_noise)


def test_barzilai_borwein_proposes_more_the_more_of_the_data_is_in_the_batch() -> None:
    proposals = []
    for b in (500, 900, 999, N):
        now, answer = parabola(curvature=2.0, samples=b)
        proposals.append(search(BarzilaiBorwein(), noisy(now, 0.99), CarriedStep(0.1), answer)[0].evidence)
    found = [evidence["proposal"] for evidence in proposals]
    assert found == sorted(found) and found[0] > 0.25
    assert found[-2] == pytest.approx(found[-1], rel=2e-3) and found[-1] == pytest.approx(1 / 2)


def test_barzilai_borwein_backtracks_from_what_it_proposed() -> None:
    now, answer = parabola(curvature=2.0, samples=N)
    decision, state, trials = search(BarzilaiBorwein(), now, CarriedStep(100.0), answer)
    assert trials[0].step == 100 and decision.lr == 100 / 128
    assert state.step == pytest.approx(1 / 2)


def test_barzilai_borwein_on_all_the_data_leaves_steepest_descent_behind() -> None:
    # Eigenvalues 1..200 from the worst start: steepest descent with exact steps, that is with 1/ν along the gradient it
    # was measured on, takes 1497 iterations to this accuracy; the delayed step takes 152.
    eigenvalues = np.linspace(1.0, 200.0, 20)
    x = 1 / eigenvalues
    rule, state = BarzilaiBorwein(rounding=0.0), CarriedStep(1.0)
    first = np.linalg.norm(eigenvalues * x)
    for step in range(1000):
        g = eigenvalues * x
        if np.linalg.norm(g) <= 1e-7 * first:
            break
        now = StepContext(step, 0, N, N, float(eigenvalues @ x**2) / 2, float(g @ g), 0.1)

        def answer(trial: Trial, x: Any = x, g: Any = g) -> Outcome:
            return Outcome(float(eigenvalues @ (x - trial.step * g) ** 2) / 2, float(g @ (eigenvalues * g) / (g @ g)))

        decision, state, _ = search(rule, now, state, answer)
        assert decision.lr is not None
        x = x - decision.lr * g
    assert step < 200


@pytest.mark.parametrize("curvature", [0.0, -1.0, math.nan, math.inf])
def test_barzilai_borwein_ignores_a_useless_curvature(curvature: float) -> None:
    now, answer = parabola(2.0)
    _, state, trials = search(
        BarzilaiBorwein(),
        noisy(now, 0.1),
        CarriedStep(0.1),
        lambda trial: replace(answer(trial), curvature=curvature),
    )
    assert state.step == 0.1 and len(trials) == 1


def test_barzilai_borwein_keeps_its_step_where_noise_hides_the_gradient_or_is_unknown() -> None:
    now, answer = parabola(2.0)
    state = CarriedStep(0.1)
    assert search(BarzilaiBorwein(), noisy(now, 1.2), state, answer)[1] == state
    assert search(BarzilaiBorwein(), now, state, answer)[1] == state
    assert search(BarzilaiBorwein(weight="noise"), noisy(now, 0.1, math.inf), state, answer)[1] == state


@pytest.mark.parametrize(
    "values",
    [
        {"initial": 0},
        {"initial": "1"},
        {"c": 0},
        {"c": 1.5},
        {"factor": 1.0},
        {"factor": 0},
        {"most_trials": 0},
        {"rounding": -1},
    ],
)
@pytest.mark.parametrize("rule", [Armijo, BarzilaiBorwein])
def test_refuses_impossible_settings(rule: Any, values: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        rule(**values)


def test_refuses_unknown_words() -> None:
    with pytest.raises(InputError, match="'never', 'gradual', 'always'"):
        Armijo(reset="sometimes")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'data', 'noise'"):
        BarzilaiBorwein(weight="loss")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="growth_on_enlarge"):
        Armijo(growth_on_enlarge=0.5)
