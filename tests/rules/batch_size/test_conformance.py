"""Every registered batch-size rule in the conformance suite: a new rule adds a row to RULES."""

import pytest

from rightbatch.decision import SizeRule
from rightbatch.rule_text import write_rule
from rightbatch.rules.batch_size import (
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
)
from rightbatch.testing import CHECKS, check, ignores_the_loss

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


def test_every_registered_rule_has_a_row() -> None:
    assert {rule.name for rule in RULES} == set(SIZE_RULES)


@pytest.mark.parametrize("rule", RULES, ids=write_rule)
@pytest.mark.parametrize("name", CHECKS)
def test_conforms(rule: SizeRule, name: str) -> None:
    check(rule, name)


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.name not in READ_THE_LOSS], ids=write_rule)
def test_bad_losses_change_nothing(rule: SizeRule) -> None:
    ignores_the_loss(rule)
