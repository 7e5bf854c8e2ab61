"""Steps found from loss, gradient, curvature and distance: Goldstein, curvature, Polyak, DoG, DoWG, schedule-free."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rightbatch.decision import Decision, LRRule, Outcome, Plan, StepContext, Trial
from rightbatch.errors import InputError, UnsupportedError
from rightbatch.measurements import UNKNOWN, NoiseEstimate
from rightbatch.rules.lr import Armijo, CurvatureStep, DoG, DoWG, Goldstein, Polyak, ScheduleFreeLR
from rightbatch.rules.lr.backtracking import CarriedStep

N = 1000
PLAN = Plan(N, 3, 2.0, lr=0.1, optimizer="SGD", settings={"momentum": 0.0})


def parabola(curvature: float, x: float = 1.0, samples: int = 100) -> tuple[StepContext, Callable[[Trial], Outcome]]:
    """F(x) = curvature · x²/2, exactly."""
    gradient = curvature * x
    now = StepContext(5, 0, samples, N, curvature * x * x / 2, gradient**2, 0.1)

    def answer(trial: Trial) -> Outcome:
        return Outcome(curvature * (x - trial.step * gradient) ** 2 / 2, curvature if trial.gradient else math.nan)

    return now, answer


def ask(
    rule: LRRule, now: StepContext, state: Any, answer: Callable[[Trial], Outcome] | None = None
) -> tuple[Decision, Any, list[Trial]]:
    trials, generator = [], rule.decide(now, state)
    try:
        trials.append(next(generator))
        while True:
            assert answer is not None
            trials.append(generator.send(answer(trials[-1])))
    except StopIteration as stop:
        return *stop.value, trials


# Goldstein.


@given(curvature=st.floats(1e-2, 1e3), carried=st.floats(1e-4, 10), c=st.floats(0.05, 0.45))
def test_goldstein_takes_a_step_between_its_lines(curvature: float, carried: float, c: float) -> None:
    """On a parabola F falls by α(1 - αν/2)‖g‖², so that 2c/ν <= α <= 2(1 - c)/ν; `most` may end it below."""
    now, answer = parabola(curvature)
    rule = Goldstein(c=c, most=50.0)
    decision, state, trials = ask(rule, now, CarriedStep(carried), answer)
    low, high = 2 * c / curvature, 2 * (1 - c) / curvature
    assert min(low, 50.0) * 0.999 <= decision.lr <= high * 1.001
    assert state.step == decision.lr == trials[-1].step
    passes = low * 1.001 <= carried <= high * 0.999
    assert not passes or len(trials) == 1


def test_goldstein_climbs_where_armijo_stays() -> None:
    now, answer = parabola(1.0)
    state = CarriedStep(1e-3)
    assert ask(Goldstein(), now, state, answer)[0].lr == pytest.approx(0.256)  # doubled until above 0.2
    assert ask(Armijo(), now, state, answer)[0].lr == pytest.approx(1e-3)


def test_goldstein_gives_up_as_armijo_does() -> None:
    now, _ = parabola(1.0)
    rule = Goldstein(most_trials=4)
    for loss in (math.nan, now.loss + 1):
        decision, state, trials = ask(rule, now, CarriedStep(1.0), lambda _, loss=loss: Outcome(loss))
        assert [trial.step for trial in trials] == [1.0, 0.5, 0.25, 0.125]
        assert decision.lr == 0.125 and state.step == 0.5
    endless = ask(rule, now, CarriedStep(1.0), lambda trial: Outcome(now.loss - 5 * trial.step))
    assert endless[0].lr == 8.0  # the longest that fell enough
    with pytest.raises(InputError, match="below 0"):
        Goldstein(c=0.5)
    with pytest.raises(InputError, match="at least 1"):
        Goldstein(most=0.5)


@pytest.mark.parametrize("rule", [Goldstein(initial=0.4, c=0.01, reset=r) for r in ("never", "gradual", "always")])
def test_resets_of_the_searches(rule: Goldstein) -> None:
    now, answer = parabola(1.0)
    expected = {"never": 0.1, "gradual": 0.1 * 2**0.1, "always": 0.4}[rule.reset]
    assert ask(rule, now, CarriedStep(0.1), answer)[2][0].step == pytest.approx(expected)


# Curvature.


def test_curvature_step_by_its_formula_and_measured_when_due() -> None:
    rule = CurvatureStep(initial=0.07, every=3)
    noise = NoiseEstimate(300.0, 1.0, 300.0, 200.0, 400.0, UNKNOWN, 3)
    state, counts = rule.start(PLAN)[1], []
    for step in range(9):
        now, answer = parabola(4.0 + step)
        decision, state, trials = ask(rule, replace(now, noise=noise), state, answer)
        counts.append(len(trials))
        expected = 2 / (4.0 + 3 * (step // 3)) / (1 + 300 / 100)
        assert decision.lr == pytest.approx(expected)
    assert counts == [1, 0, 0] * 3


def test_curvature_step_waits_for_noise_and_ignores_negative_curvature() -> None:
    rule = CurvatureStep(initial=0.05)
    now, answer = parabola(4.0)
    decision, state, _ = ask(rule, now, rule.start(PLAN)[1], answer)
    assert decision.lr == 0.05 and state.curvature == 4.0
    noise = NoiseEstimate(100.0, 0.0, math.inf, 100.0, math.inf, UNKNOWN, 3)  # not told from infinity: its lower end
    assert ask(rule, replace(now, noise=noise), state)[0].lr == pytest.approx(0.1)  # 2/4/2, at most doubled
    fresh = rule.start(PLAN)[1]
    bent = ask(rule, replace(now, noise=noise), fresh, lambda _: Outcome(0.0, -1.0))
    assert bent[0].lr == 0.05 and math.isnan(bent[1].curvature)


# Polyak.


def test_polyak_reaches_the_minimum_of_a_quadratic() -> None:
    """With c = 1 the step halves the distance on F = νx²/2, for any ν."""
    curvature = np.array([0.1, 0.1])
    x = np.array([3.0, -2.0])
    rule = Polyak(c=1.0, most=1e3, gradual=False)
    state = rule.start(PLAN)[1]
    for step in range(40):
        gradient = curvature * x
        now = StepContext(step, 0, 10, N, float(gradient @ x) / 2, float(gradient @ gradient), 0.1)
        decision, state, _ = ask(rule, now, state)
        shorter = x - decision.lr * gradient
        assert shorter == pytest.approx(x / 2) or now.gradient_norm2 < 1e-16
        x = shorter
    assert np.abs(x).max() < 1e-6


@given(st.floats(0.01, 100), st.floats(0.01, 100), st.floats(0, 1), st.floats(0.01, 10), st.integers(1, N))
def test_polyak_twin(loss: float, norm2: float, least: float, most: float, b: int) -> None:
    rule = Polyak(least, 0.2, most)
    now = replace(parabola(1.0)[0], loss=loss, gradient_norm2=norm2, batch_size=b)
    decision, state, _ = ask(rule, now, rule.start(PLAN)[1])
    expected = min((loss - least) / (0.2 * norm2), most) if loss > least else most
    assert decision.lr == pytest.approx(expected) and state.step == decision.lr
    again = ask(rule, replace(now, loss=1e6), state)[0]
    assert again.lr == pytest.approx(min(most, expected * 2 ** (b / N)))


# Distances.


@given(st.integers(0, 1000))
def test_dog_and_dowg_twins(seed: int) -> None:
    generator = np.random.default_rng(seed)
    norms2, distances = generator.exponential(size=20), np.abs(np.cumsum(generator.standard_normal(20))) / 5
    distances[0] = 0.0
    for rule, start in ((DoG(), 1e-6 * 3), (DoWG(), 1e-4 * 3)):
        state = rule.start(PLAN)[1]
        for t in range(20):
            now = replace(parabola(1.0)[0], step=t, gradient_norm2=norms2[t], distance=distances[t])
            decision, state, _ = ask(rule, now, state)
            r = np.maximum.accumulate(np.maximum(distances[: t + 1], start))
            if isinstance(rule, DoWG):
                expected = r[-1] ** 2 / math.sqrt((r**2 * norms2[: t + 1]).sum())
            else:
                expected = r[-1] / math.sqrt(norms2[: t + 1].sum() + 1e-8)
            assert decision.lr == pytest.approx(expected)


@pytest.mark.parametrize("rule", [DoG(), DoWG()])
def test_distance_rules_solve_a_quadratic_without_tuning(rule: DoG) -> None:
    for scale in (1e-2, 1.0, 1e2):
        x0 = np.array([3.0, -1.0])
        x, state = x0.copy(), rule.start(replace(PLAN, parameter_norm=math.sqrt(10)))[1]
        for step in range(2000):
            gradient = scale * np.array([1.0, 0.3]) * x
            distance = float(np.linalg.norm(x - x0))
            now = StepContext(step, 0, 10, N, 1.0, float(gradient @ gradient), 0.1, distance=distance)
            decision, state, _ = ask(rule, now, state)
            x = x - (decision.lr or 0.0) * gradient
        assert np.abs(x).max() < 0.05 * np.abs(x0).max()


@pytest.mark.parametrize("rule", [Polyak(), DoG(), DoWG()])
def test_gradient_steps_are_refused_over_adam_and_hold_without_a_gradient(rule: LRRule) -> None:
    for optimizer in ("AdamW", "SGDScheduleFree"):
        with pytest.raises(UnsupportedError, match=f"{optimizer} moves in another direction"):
            rule.start(replace(PLAN, optimizer=optimizer))
    for optimizer in ("SGD", ""):
        state = rule.start(replace(PLAN, optimizer=optimizer))[1]
    for norm2 in (0.0, math.nan, math.inf):
        decision, held, _ = ask(rule, replace(parabola(1.0)[0], gradient_norm2=norm2), state)
        assert held == state and decision.code == "no-slope"


def test_schedule_free_takes_the_rate_from_where_there_is_one() -> None:
    assert ScheduleFreeLR(0.3).start(PLAN)[0].lr == 0.3
    assert ScheduleFreeLR().start(PLAN)[0].lr == 0.1
    assert ScheduleFreeLR().start(replace(PLAN, lr=0.0))[0].lr == 0.0025
    assert ScheduleFreeLR().averages
