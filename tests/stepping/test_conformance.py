"""Every registered step-size rule on the same situations: a new rule is tested by being registered."""

import math
from dataclasses import asdict, replace
from typing import Any

import pytest

from rightbatch.decision import Decision, Needs, Outcome, Plan, Situation, StepRule, Trial
from rightbatch.evidence import UNKNOWN, Measurement, Movement, NoiseEstimate
from rightbatch.stepping import STEP_RULES, step_rule

N = 200
ADAM = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.01}
PLAN = Plan(N, 10, 1.0, learning_rate=0.1, total_samples=1200, optimizer="AdamW", settings=ADAM)

WITH_SETTINGS = {"interpolation": "interpolation(2.0, 1.0)"}  # of the rules that cannot do without


SGD = replace(PLAN, optimizer="SGD", settings={"momentum": 0.9, "weight_decay": 0.01})
PLANS = {"sde": PLAN, "beta2-half-life": PLAN}  # of the rules that need Adam; the others are asked over SGD


def situation(step: int) -> Situation:
    signal, variance, b = 2.0 * 0.9**step, 5.0, 16 + step
    norm2 = signal + variance / b
    measurement = Measurement(b, norm2, variance, signal)
    scale = variance / signal
    noise = NoiseEstimate(variance, signal, scale, scale / 2, scale * 2, UNKNOWN, step + 1)
    movement = Movement(0.01 * math.sqrt(step + 1), float(step + 1), step + 1)
    return Situation(
        step,
        20 * step,
        b,
        N,
        1.0 + signal,
        norm2,
        0.1,
        measurement,
        noise,
        movement=movement,
        grew=step % 5 == 0,
        distance=0.01 * step,
    )


CALM = [situation(step) for step in range(60)]
TRACES = {
    "calm": CALM,
    "no evidence": [replace(now, measurement=None, noise=None, movement=None) for now in CALM],
    "all the data": [replace(now, examples=N) for now in CALM],
    "zero gradient": [replace(now, gradient_norm2=0.0, measurement=None) for now in CALM],
    "nan loss": [replace(now, loss=math.nan) if now.step % 7 == 6 else now for now in CALM],
    "nan gradient": [replace(now, gradient_norm2=math.nan) for now in CALM],
}


def drive(rule: StepRule, situations: list[Situation], lost: bool = False) -> tuple[list[tuple[Decision, Any]], int]:
    """Answer trials as a parabola of curvature 3 would, or with nan where `lost`."""
    answers: list[tuple[Decision, Any]] = [rule.start(PLANS.get(rule.name, SGD))]
    trials = 0
    for now in situations:
        generator, outcome = rule.decide(now, answers[-1][1]), None
        try:
            trial = next(generator)
            while True:
                assert isinstance(trial, Trial) and 0 < trial.step < math.inf
                trials += 1
                fall = (1.5 * trial.step - 1) * trial.step * now.gradient_norm2
                outcome = Outcome(math.nan if lost else now.loss + fall, 3.0 if trial.gradient else math.nan)
                trial = generator.send(outcome)
        except StopIteration as stop:
            answers.append(stop.value)
    return answers, trials


@pytest.mark.parametrize("lost", [False, True], ids=["", "lost trials"])
@pytest.mark.parametrize("trace", TRACES)
@pytest.mark.parametrize("name", STEP_RULES)
def test_decisions_are_sensible_and_pure(name: str, trace: str, lost: bool) -> None:
    rule = step_rule(WITH_SETTINGS.get(name, name))
    answers, trials = drive(rule, TRACES[trace], lost)
    assert repr((answers, trials)) == repr(drive(rule, TRACES[trace], lost))  # as text, for nan differs from itself
    assert rule.searches or trials == 0
    assert trials <= 61 * len(TRACES[trace])
    for decision, _ in answers:
        assert decision.learning_rate is None or 0 < decision.learning_rate < math.inf
        assert decision.examples is None
        assert decision.action is None or rule.guards


@pytest.mark.parametrize("name", ["constant", "armijo", "barzilai-borwein", "noise-scaled", "ada-batch", "seesaw"])
def test_flat_states_go_through_plain_types(name: str) -> None:
    rule = step_rule(WITH_SETTINGS.get(name, name))
    for _, state in drive(rule, CALM)[0]:
        assert type(state)(**asdict(state)) == state


@pytest.mark.parametrize("name", STEP_RULES)
def test_declares_what_it_needs(name: str) -> None:
    rule = step_rule(WITH_SETTINGS.get(name, name))
    assert isinstance(rule.needs, Needs)
    assert all(isinstance(flag, bool) for flag in (rule.searches, rule.averages, rule.guards))
