import math
from dataclasses import replace
from typing import Any

import pytest

from rightbatch.decision import Decision, Plan, StepContext
from rightbatch.errors import InputError
from rightbatch.measurements import UNKNOWN, NoiseEstimate
from rightbatch.rules.lr import Constant, NoiseScaled


def situation(samples: int, scale: float, lr: float = 1.0, high: float = 1e9) -> StepContext:
    noise = NoiseEstimate(scale, 1.0, scale, scale / 2 if math.isfinite(scale) else 700.0, high, UNKNOWN, 5)
    return StepContext(3, 0, samples, 10_000, 1.0, 1.0, lr, noise=noise)


def decide(rule: Any, now: StepContext, lr: float = 0.8) -> Decision:
    _, state = rule.start(Plan(10_000, lr=lr))
    with pytest.raises(StopIteration) as stop:
        next(rule.decide(now, state))
    decision, after = stop.value.value
    assert after == state and isinstance(decision, Decision)
    return decision


@pytest.mark.parametrize("samples", [1, 32, 300, 10_000])
def test_agrees_with_the_formula(samples: int) -> None:
    now = situation(samples, 300.0)
    assert decide(NoiseScaled(0.5), now).lr == pytest.approx(0.5 / (1 + 300 / samples))
    expected = 0.5 * (1 + 300 / 64) / (1 + 300 / samples)
    assert decide(NoiseScaled(0.5, at=64), now).lr == pytest.approx(expected)


def test_is_the_gain_of_adascale_at_multiples_of_the_reference() -> None:
    # (σ² + μ²)/(σ²/S + μ²) with σ² the variance of a reference batch's gradient
    at, s, variance, signal = 32, 8, 500.0, 1.0
    gain = (variance / at + signal) / (variance / at / s + signal)
    decision = decide(NoiseScaled(0.1, at=at), situation(at * s, variance / signal))
    assert decision.lr == pytest.approx(0.1 * gain)


def test_is_linear_in_noise_and_flat_without() -> None:
    for scale, factor in ((1e12, 4.0), (1e-9, 1.0)):
        decision = decide(NoiseScaled(0.1, at=64), situation(256, scale, high=1e15))
        assert decision.lr == pytest.approx(0.1 * factor, rel=1e-6)


def test_takes_the_optimizers_own_learning_rate() -> None:
    assert NoiseScaled().start(Plan(100, lr=0.3))[0].lr == 0.3
    assert decide(NoiseScaled(), situation(100, 100.0), lr=0.3).lr == pytest.approx(0.15)
    with pytest.raises(InputError, match="learning rate of 0"):
        NoiseScaled().start(Plan(100, lr=0.0))


def test_holds_while_the_noise_is_unknown_or_nothing_changed() -> None:
    now = situation(100, 100.0)
    for unknown in (None, replace(now.noise, low=math.nan, high=math.inf), replace(now.noise, low=0.0, high=math.inf)):  # type: ignore[type-var]
        assert decide(NoiseScaled(0.5), replace(now, noise=unknown)).lr is None
    assert decide(NoiseScaled(0.5), replace(now, lr=0.2501)).lr is None


def test_an_unknown_signal_counts_as_the_least_noise_it_allows() -> None:
    decision = decide(NoiseScaled(0.5), situation(100, math.inf, high=math.inf))
    assert decision.lr == pytest.approx(0.5 / (1 + 7))


def test_constant_sets_its_step_once() -> None:
    assert Constant(0.1).start(Plan(10))[0].lr == 0.1
    assert Constant().start(Plan(10))[0].lr is None
    assert decide(Constant(0.1), situation(10, 1.0)).lr is None


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, True, "0.1"])
def test_refuses_what_is_no_step_size(value: Any) -> None:
    for rule in (Constant, NoiseScaled):
        with pytest.raises(InputError):
            rule(value)
    with pytest.raises(InputError):
        NoiseScaled(0.1, at=0)
