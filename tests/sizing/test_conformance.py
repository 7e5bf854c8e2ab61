"""Every registered batch-size rule on the same recorded situations: a new rule adds a row to RULES."""

import math
from dataclasses import asdict, fields, replace

import numpy as np
import pytest

from rightbatch.decision import Decision, Needs, Plan, Situation, SizeRule
from rightbatch.evidence import UNKNOWN, Measurement, NoiseEstimate, StepTime
from rightbatch.rule_text import write_rule
from rightbatch.sizing import (
    CABS,
    SIZE_RULES,
    AdaBatch,
    AdAdaGrad,
    AdaDamp,
    AugmentedTest,
    BigBatch,
    Bounded,
    Cyclic,
    DDPNorm,
    DiveBatch,
    DontDecay,
    Dwell,
    Fixed,
    GeoDamp,
    Goodput,
    GradientNoiseScale,
    Growth,
    Hysteresis,
    InnerProductTest,
    Interpolation,
    MemoryCap,
    NormTest,
    Orr,
    Plateau,
    RadaDamp,
    Ramp,
    Replay,
    Seesaw,
    SimiGrad,
    Snapped,
    SweetSpot,
    Thresholds,
    UnbiasedNormTest,
    WholeIfSmall,
    size_rule,
)
from rightbatch.training.rule_state import restored

N = 200
RULES: list[SizeRule] = [
    Fixed(16),
    BigBatch(),
    BigBatch(kappa=3, first=4, most=50),
    SweetSpot(),
    SweetSpot(floor=3, ceiling=8),
    NormTest(),
    NormTest(theta=0.3, first=4, most=50),
    UnbiasedNormTest(first=4),
    InnerProductTest(first=4),
    AugmentedTest(theta=0.2, first=4, nu=0.5),
    AdAdaGrad(most=60),
    DDPNorm(multiple_of=24),
    GradientNoiseScale(),
    GradientNoiseScale(first=4, most=64, exchange=100.0),
    Goodput(first=8),
    Goodput(first=4, least=6, most=90, sizes=9, gain=1.0),
    CABS(least=4, scale=100.0),
    DiveBatch(16),
    DiveBatch(16, delta=0.5, most=40),
    SimiGrad(),
    SimiGrad(first=4, most=50, target=0.8, growth=0.5),
    Interpolation(8.0, 1.0),
    Interpolation(8.0, 2.0, 0.5, most=6),
    Thresholds(((0, 8), (1, 32), (2.5, 16)), unit="epochs"),
    Growth(4, 100),
    Growth(64, 4, "geometric", over_epochs=2),
    Cyclic(4, 64, every_samples=333),
    AdaBatch(8, every_epochs=1),
    DontDecay(4, milestones=(1, 2, 4)),
    Seesaw(8),
    GeoDamp(8, every_samples=150, most=50),
    AdaDamp(8, dwell_steps=4),
    RadaDamp(8, rho=0.5, wait_steps=5, dwell_steps=3),
    Plateau(8, patience=0, every_samples=100),
    Orr(curvature=2.0),
    Replay(((0, 32), (320, 64))),
    AdaDamp(8, dwell_steps=4, most=40),
    Bounded(most=40),
    Bounded(BigBatch(), least=20, most=40),
    MemoryCap(BigBatch(), most=48),
    Hysteresis(BigBatch()),
    Dwell(BigBatch(kappa=3, first=4), steps=5),
    Snapped(BigBatch(kappa=3, first=4)),
    Snapped(grid=(10, 40, 160), direction="down"),
    WholeIfSmall(threshold=N),
    WholeIfSmall(BigBatch(), threshold=N - 1),
    Ramp(first=4, over_samples=800),
    Ramp(Snapped(Hysteresis(BigBatch(), factor=1.5), grid=8), first=2),
]

READ_THE_LOSS = {"cabs", "ada-damp", "rada-damp", "plateau"}


def trace(seed: int, signal_from: float, signal_to: float, variance: float) -> list[Situation]:
    """Fifty steps whose signal moves from one value to another in a noise of its own."""
    random, situations = np.random.default_rng(seed), []
    for step in range(50):
        signal = signal_from * (signal_to / signal_from) ** (step / 49)
        b = int(random.integers(2, 64))
        norm2 = max(1e-12, signal + variance / b * float(1 + 0.3 * random.normal()))
        estimate = norm2 - variance / b
        measurement = (
            Measurement(b, norm2, variance, estimate, projection_variance=variance * norm2 / 7)
            if step % 3 == 0
            else None
        )
        scale = variance / signal
        high = math.inf if estimate < 0 else 2 * scale
        noise = NoiseEstimate(variance, signal, scale, scale / 2, high, UNKNOWN, 1 + step // 3) if step else None
        time = StepTime(4e-4, 1e-5, 40.0, 5.0, 5, 4, 64) if step > 4 else None
        situations.append(Situation(step, 32 * step, b, N, signal, norm2, 0.1, measurement, noise, time, wanted=32))
    return situations


CALM = trace(0, 1.0, 0.1, 1.0)
TRACES = {
    "calm": CALM,
    "vanishing signal": trace(1, 1.0, 1e-8, 5.0),
    "pure noise": trace(2, 1e-12, 1e-12, 100.0),
    "no evidence": [replace(now, measurement=None, noise=None, step_time=None) for now in CALM],
    "nan loss": [replace(now, loss=math.nan) for now in CALM],
    "nan gradient": [replace(now, gradient_norm2=math.nan, measurement=None) for now in CALM],
    "zero gradient": [
        replace(now, gradient_norm2=0.0, measurement=Measurement(now.examples, 0.0, 0.0, 0.0)) for now in CALM
    ],
    "all the data": [replace(now, examples=N) for now in CALM],
    "one example": [replace(now, examples=1, measurement=Measurement(1, 1.0, math.nan, math.nan)) for now in CALM],
}


def drive(rule: SizeRule, situations: list[Situation]) -> list[tuple[Decision, object]]:
    decision, state = rule.start(Plan(train_samples=N, learning_rate=0.1, total_samples=50 * 32))
    answers: list[tuple[Decision, object]] = [(decision, state)]
    for now in situations:
        answers.append(rule.decide(now, answers[-1][1]))
    return answers


def test_every_registered_rule_has_a_row() -> None:
    assert {rule.name for rule in RULES} == set(SIZE_RULES)


@pytest.mark.parametrize("rule", RULES, ids=write_rule)
@pytest.mark.parametrize("name", TRACES)
def test_decisions_are_sensible_and_pure(rule: SizeRule, name: str) -> None:
    answers = drive(rule, TRACES[name])
    assert answers == drive(rule, TRACES[name])
    assert answers[0][0].examples is not None
    for decision, state in answers:
        assert decision.examples is None or (type(decision.examples) is int and 1 <= decision.examples <= N)
        assert decision.learning_rate is None
        assert decision.reason
        assert decision.action in (None, "stop")
        assert restored(state, asdict(state)) == state  # type: ignore[call-overload]


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.name not in READ_THE_LOSS], ids=write_rule)
def test_one_bad_loss_changes_nothing(rule: SizeRule) -> None:
    bad = [replace(now, loss=math.nan) for now in CALM]
    assert drive(rule, bad) == drive(rule, CALM)


@pytest.mark.parametrize("rule", RULES, ids=write_rule)
def test_declares_what_it_needs_and_reads_back_from_text(rule: SizeRule) -> None:
    assert isinstance(rule.needs, Needs) and isinstance(rule.enlarges_current, bool)
    assert size_rule(write_rule(rule)) == rule
    with pytest.raises(AttributeError):
        setattr(rule, fields(rule)[0].name, 3)  # type: ignore[arg-type]
