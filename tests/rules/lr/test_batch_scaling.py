"""Rates scaled with the batch: twins from the formulas, what the rule within is shown, and Adam's path under `sde`."""

import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rightbatch.decision import Decision, LRRule, Needs, Plan, StepContext
from rightbatch.errors import InputError, UnsupportedError
from rightbatch.loop.decide import restored
from rightbatch.measurements import UNKNOWN, NoiseEstimate
from rightbatch.rule_text import write_rule
from rightbatch.rules.lr import LEGW, SDE, AdaScale, Beta2HalfLife, LinearScaling, SquareRootScaling, Surge, lr_rule
from rightbatch.rules.recipes import Seesaw

N = 1000
ADAM = {"beta1": 0.9, "beta2": 0.96, "eps": 1e-6, "weight_decay": 0.1}
PLAN = Plan(N, lr=0.2, total_samples=4000, optimizer="AdamW", settings=ADAM)
SCALED = (LinearScaling, SquareRootScaling, LEGW, Surge, AdaScale, SDE, Beta2HalfLife)


def noise(variance: float, signal: float) -> NoiseEstimate:
    scale = variance / signal
    return NoiseEstimate(variance, signal, scale, scale / 2, scale * 2, UNKNOWN, 3)


def situation(batch_size: int, samples: int = 5000, noise: NoiseEstimate | None = None, step: int = 9) -> StepContext:
    return StepContext(step, samples, batch_size, N, 1.0, 2.0, 0.2, noise=noise, wanted=batch_size)


def ask(rule: LRRule, now: StepContext, state: Any) -> tuple[Decision, Any]:
    generator = rule.decide(now, state)
    with pytest.raises(StopIteration) as stop:
        next(generator)
    return stop.value.value  # type: ignore[no-any-return]


def first(rule: LRRule, now: StepContext) -> Decision:
    return ask(rule, now, rule.start(PLAN)[1])[0]


@given(at=st.integers(1, 500), b=st.integers(1, 500))
def test_linear_and_square_root(at: int, b: int) -> None:
    assert first(LinearScaling(0.3, at=at), situation(b)).lr == pytest.approx(0.3 * b / at)
    assert first(SquareRootScaling(0.3, at=at), situation(b)).lr == pytest.approx(0.3 * math.sqrt(b / at))


@given(at=st.integers(1, 200), b=st.integers(1, 200), samples=st.integers(0, 3000), epochs=st.floats(0.1, 3))
def test_legw_warms_up_in_as_many_steps_at_every_batch(at: int, b: int, samples: int, epochs: float) -> None:
    steps, warmup_steps = (samples + b) / b, epochs * N / at
    expected = 0.2 * math.sqrt(b / at) * min(1.0, steps / warmup_steps)
    rule = LEGW(None, at=at, warmup_epochs=epochs)
    assert first(rule, situation(b, samples)).lr == pytest.approx(expected)


@given(scale=st.floats(1, 1e4), b=st.integers(1, 500), at=st.integers(1, 500))
def test_surge_peaks_at_the_noise_scale(scale: float, b: int, at: int) -> None:
    def best(samples: float) -> float:
        return 1 / (0.5 * ((scale / samples) ** 0.5 + (samples / scale) ** 0.5))

    rate = first(Surge(0.1, at=at), situation(b, noise=noise(scale, 1.0))).lr
    assert rate == pytest.approx(0.1 * best(b) / best(at))
    assert best(scale) >= best(b)


def test_surge_keeps_its_factor_without_evidence_and_counts_the_lower_end_of_an_open_interval() -> None:
    rule = Surge(0.1, at=16)
    _, state = ask(rule, situation(64, noise=noise(64.0, 1.0)), rule.start(PLAN)[1])
    peak = 0.1 * math.sqrt(4) * (1 + 1 / 4) / 2
    decision, _ = ask(rule, situation(64), state)
    assert decision.lr == pytest.approx(peak) and decision.code == "not-measured"
    open_ended = replace(noise(1000.0, 1.0), low=64.0, high=math.inf)
    assert first(rule, situation(64, noise=open_ended)).lr == pytest.approx(peak)


@given(v=st.floats(0.1, 1e4), s=st.floats(0.01, 100), at=st.integers(1, 64), b=st.integers(1, 512))
def test_gain_of_ada_scale_is_batch_ratio_times_efficiency(v: float, s: float, at: int, b: int) -> None:
    scale = v / s
    efficiency = (scale + at) / (scale + b)
    decision = first(AdaScale(0.1, at=at), situation(b, noise=noise(v, s)))
    assert decision.evidence["gain"] == pytest.approx(b / at * efficiency, rel=1e-2 if v / at < 1e-3 else 1e-9)
    assert decision.lr == pytest.approx(0.1 * decision.evidence["gain"])


def test_ada_scale_shows_the_base_run_and_stops_with_it() -> None:
    # Cuts where the cosine has fallen to a half: at 2/3.
    rule = AdaScale(Seesaw(8, lr=0.1).lr_rule, at=8, base_steps=100)
    state = rule.start(PLAN)[1]
    gain = first(rule, situation(64, noise=noise(56.0, 1.0))).evidence["gain"]
    assert gain == pytest.approx(64 / 8 * (56 + 8) / (56 + 64))
    rates, stopped = [], 0
    for step in range(40):
        decision, state = ask(rule, situation(64, 64 * step, noise(56.0, 1.0), step), state)
        rates.append(decision.lr / gain if decision.action is None else math.nan)
        if decision.action == "stop":
            stopped = step
            break
    cut = next(step for step, rate in enumerate(rates) if rate < 0.099)
    assert cut == math.ceil(67 / gain) and stopped == math.ceil(100 / gain)
    assert rates[0] == pytest.approx(0.1) and rates[cut] == pytest.approx(0.1 / math.sqrt(2))


def test_a_schedule_in_ada_scale_ends_with_the_base_run_whether_at_is_given_or_not() -> None:
    """At batches of b0 the gain is 1 and τ counts steps; the run has 500 of them, the base run 100."""
    for rule in (AdaScale("cosine(0.1)", at=8, base_steps=100), AdaScale("cosine(0.1)", base_steps=100)):
        state = rule.start(PLAN)[1]
        for step in range(100):
            now = replace(situation(8, 8 * step, step=step), total_samples=PLAN.total_samples)
            decision, state = ask(rule, now, state)
            assert decision.lr == pytest.approx(0.05 * (1 + math.cos(math.pi * step / 100)))


def test_ada_scale_without_noise_gains_nothing_and_with_nothing_but_noise_all() -> None:
    assert first(AdaScale(0.1, at=8), situation(64)).lr == pytest.approx(0.1)
    lost = NoiseEstimate(10.0, -1.0, math.inf, 5.0, math.inf, UNKNOWN, 3)
    assert first(AdaScale(0.1, at=8), situation(64, noise=lost)).lr == pytest.approx(0.8)


def test_sde_by_the_worked_example() -> None:
    """From 448 to 3200 samples: beta1 0.9 -> 0.2857, beta2 0.96 -> 0.714, rate times 2.673."""
    decision = first(SDE(0.1, at=448, max_size=3200, weight_decay=True), situation(3200))
    assert decision.lr == pytest.approx(0.2673, rel=1e-3)
    root = math.sqrt(3200 / 448)
    expected = {"beta1": 0.2857, "beta2": 0.7143, "eps": 1e-6 / root, "weight_decay": 0.1 * root}
    assert dict(decision.settings) == pytest.approx(expected, rel=1e-3)


def test_sde_refuses_or_holds_where_no_betas_follow_and_says_so() -> None:
    with pytest.raises(InputError, match=r"beta1 = 0\.9 goes up to 10 times"):
        SDE(at=8, max_size=80).start(PLAN)
    SDE(at=8, max_size=79).start(PLAN)
    rule = SDE(0.1, at=8)
    decision, state = ask(rule, situation(32), rule.start(PLAN)[1])
    held, state = ask(rule, situation(80), state)
    assert held.lr == decision.lr == pytest.approx(0.2)
    assert held.settings == decision.settings and held.code == "no-valid-betas"
    assert ask(rule, situation(8), state)[0].settings == pytest.approx({k: ADAM[k] for k in ("beta1", "beta2", "eps")})


def test_sde_without_momentum_leaves_it_out_and_sgd_is_refused() -> None:
    plan = replace(PLAN, settings={"beta2": 0.99, "eps": 1e-8, "momentum": 0.0})
    rule = SDE(0.1, at=8)
    assert set(ask(rule, situation(32), rule.start(plan)[1])[0].settings) == {"beta2", "eps"}
    zero = replace(PLAN, settings={**ADAM, "beta1": 0.0})
    assert set(ask(rule, situation(32), rule.start(zero)[1])[0].settings) == {"beta2", "eps"}
    sgd = replace(PLAN, optimizer="SGD", settings={"momentum": 0.9})
    for needy in (SDE(), Beta2HalfLife()):
        with pytest.raises(UnsupportedError, match=r"which SGD (lacks|does not have)"):
            needy.start(sgd)


@given(at=st.integers(1, 500), b=st.integers(1, 500))
def test_half_life_of_beta2_stays_in_samples(at: int, b: int) -> None:
    beta2 = first(Beta2HalfLife(at=at), situation(b)).settings["beta2"]
    assert b * math.log(0.5) / math.log(beta2) == pytest.approx(at * math.log(0.5) / math.log(0.96))


@pytest.mark.parametrize("kind", SCALED)
def test_the_first_batch_is_the_reference_where_none_is_given(kind: Any) -> None:
    rule = kind(0.1)
    rate = first(rule, situation(48, noise=noise(50.0, 1.0))).lr
    assert rate == pytest.approx(0.1)


@pytest.mark.parametrize("kind", SCALED)
def test_wrappers_nest_and_states_and_texts_come_back(kind: Any) -> None:
    rule = kind("exponential(0.1, every_epochs=2)", at=16)
    text = write_rule(rule)
    assert lr_rule(text) == rule and "exponential(" in text
    assert rule.needs in (Needs.NOTHING, Needs.NOISE)
    twice = LinearScaling(rule, at=16)
    state = twice.start(PLAN)[1]
    for step in range(5):
        decision, state = ask(twice, situation(32, 600 * step, noise(50.0, 1.0), step), state)
        assert restored(twice.start(PLAN)[1], asdict(state)) == state
        assert decision.lr is not None and decision.lr > 0
    with pytest.raises(InputError, match="'armijo' computes it for each batch"):
        kind("armijo")
    with pytest.raises(InputError, match="whole number"):
        kind(at=0)
    with pytest.raises(InputError, match="learning rate of 0"):
        kind().start(replace(PLAN, lr=0.0))


def adam_path(factor: int, runs: int = 500, samples: int = 2400) -> np.ndarray:
    """Mean loss of Adam on a noisy quadratic after every 8 samples, with the settings that `sde` decides."""
    base = {"beta1": 0.95, "beta2": 0.99, "eps": 1e-3}
    plan = replace(PLAN, lr=0.002, settings=base)
    rule = SDE(at=1)
    decision = ask(rule, situation(factor), rule.start(plan)[1])[0]
    rate, beta1, beta2, eps = decision.lr, *(decision.settings[k] for k in base)
    generator = np.random.default_rng(factor)
    curvature = np.array([0.3, 1.0, 3.0])
    x = np.ones((runs, 3))
    first, second, losses = np.zeros_like(x), np.zeros_like(x), []
    for step in range(1, samples // factor + 1):
        gradient = curvature * x + 10 / math.sqrt(factor) * generator.standard_normal(x.shape)
        first = beta1 * first + (1 - beta1) * gradient
        second = beta2 * second + (1 - beta2) * gradient**2
        x = x - rate * first / (1 - beta1**step) / (np.sqrt(second / (1 - beta2**step)) + eps)
        if step * factor % 8 == 0:
            losses.append(float((curvature * x**2).sum(axis=1).mean()))
    return np.array(losses)


def test_sde_keeps_the_loss_curve_of_adam_from_1_to_8() -> None:
    """The loss falls to a quarter. The rule is exact for infinitely small steps only: the curves, means of 500 runs
    each, may differ by 8 % of the first loss; measured are 1, 3 and 6 %, of which 1 % is chance."""
    plain = adam_path(1)
    assert plain[-1] < 0.3 * plain[0]
    for factor in (2, 4, 8):
        assert np.abs(adam_path(factor) - plain).max() < 0.08 * plain[0]
