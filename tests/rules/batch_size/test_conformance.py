"""Every registered batch-size rule in the conformance suite: a new rule adds a row to RULES."""

import pytest

from rightbatch.decision import BatchSizeRule
from rightbatch.rule_text import write_rule
from rightbatch.rules.batch_size import (
    BATCH_SIZE_RULES,
    CABS,
    AdAdaGrad,
    AdaDamp,
    AugmentedTest,
    BigBatch,
    Bounded,
    Cyclic,
    DDPNorm,
    DiveBatch,
    Fixed,
    Goodput,
    GradientNoiseScale,
    Growth,
    Horizon,
    Hysteresis,
    InnerProductTest,
    MemoryCap,
    MinHold,
    NormTest,
    Orr,
    Piecewise,
    Plateau,
    RadaDamp,
    Ramp,
    Replay,
    Rounded,
    SimiGrad,
    SweetSpot,
    UnbiasedNormTest,
    WholeIfSmall,
)
from rightbatch.rules.recipes import AdaBatch, DontDecay, GeoDamp, Interpolation, Seesaw
from rightbatch.testing import CHECKS, check, ignores_the_loss

N = 200
RULES: list[BatchSizeRule] = [
    Fixed(16),
    BigBatch(),
    BigBatch(kappa=3, initial=4, max_size=50),
    Horizon(),
    SweetSpot(),
    SweetSpot(floor=3, ceiling=8),
    NormTest(),
    NormTest(theta=0.3, initial=4, max_size=50),
    UnbiasedNormTest(initial=4),
    InnerProductTest(initial=4),
    AugmentedTest(theta=0.2, initial=4, nu=0.5),
    AdAdaGrad(max_size=60),
    DDPNorm(multiple_of=24),
    GradientNoiseScale(),
    GradientNoiseScale(initial=4, max_size=64, exchange=100.0),
    Goodput(initial=8),
    Goodput(initial=4, min_size=6, max_size=90, sizes=9, gain=1.0),
    CABS(min_size=4, scale=100.0),
    DiveBatch(16),
    DiveBatch(16, delta=0.5, max_size=40),
    SimiGrad(),
    SimiGrad(initial=4, max_size=50, target=0.8, growth=0.5),
    Interpolation(8.0, 1.0),
    Interpolation(8.0, 2.0, 0.5, max_size=6),
    Piecewise(((0, 8), (1, 32), (2.5, 16)), unit="epochs"),
    Growth(4, 100),
    Growth(64, 4, "geometric", over_epochs=2),
    Cyclic(4, 64, every_samples=333),
    AdaBatch(8, every_epochs=1),
    DontDecay(4, milestones=(1, 2, 4)),
    Seesaw(8),
    GeoDamp(8, every_samples=150, max_size=50),
    AdaDamp(8, dwell_steps=4),
    RadaDamp(8, rho=0.5, wait_steps=5, dwell_steps=3),
    Plateau(8, patience=0, every_samples=100),
    Orr(curvature=2.0),
    Replay(((0, 32), (320, 64))),
    AdaDamp(8, dwell_steps=4, max_size=40),
    Bounded(max_size=40),
    Bounded(BigBatch(), min_size=20, max_size=40),
    MemoryCap(BigBatch(), max_size=48),
    Hysteresis(BigBatch()),
    MinHold(BigBatch(kappa=3, initial=4), steps=5),
    Rounded(BigBatch(kappa=3, initial=4)),
    Rounded(grid=(10, 40, 160), direction="down"),
    WholeIfSmall(threshold=N),
    WholeIfSmall(BigBatch(), threshold=N - 1),
    Ramp(initial=4, over_samples=800),
    Ramp(Rounded(Hysteresis(BigBatch(), factor=1.5), grid=8), initial=2),
]

READ_THE_LOSS = {"cabs", "ada-damp", "rada-damp", "plateau"}


def test_every_registered_rule_has_a_row() -> None:
    assert {rule.name for rule in RULES} == set(BATCH_SIZE_RULES)


@pytest.mark.parametrize("rule", RULES, ids=write_rule)
@pytest.mark.parametrize("name", CHECKS)
def test_conforms(rule: BatchSizeRule, name: str) -> None:
    check(rule, name)


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.name not in READ_THE_LOSS], ids=write_rule)
def test_bad_losses_change_nothing(rule: BatchSizeRule) -> None:
    ignores_the_loss(rule)
