"""Batch-size rules from measured noise, against their formulas and on simulated gradients with known answers."""

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rightbatch.decision import BatchSizeRule, Decision, Plan, StepContext
from rightbatch.errors import InputError
from rightbatch.measurements import UNKNOWN, Measurement, NoiseEstimate, StepTime
from rightbatch.rules.batch_size import (
    CABS,
    AdAdaGrad,
    AugmentedTest,
    BigBatch,
    DDPNorm,
    DiveBatch,
    Goodput,
    GradientNoiseScale,
    Hysteresis,
    InnerProductTest,
    NormTest,
    SimiGrad,
    SweetSpot,
    UnbiasedNormTest,
    batch_size_rule,
)

MANY = 10**9
D = 200
SIGMA = np.geomspace(0.3, 3.0, D)  # standard deviations of one sample's gradient
G = np.random.default_rng(7).normal(size=D) * 0.2  # the true gradient
VARIANCE = float(np.sum(SIGMA**2))
SIGNAL = float(np.sum(G**2))
B_NOISE = VARIANCE / SIGNAL


def gradients(random: np.random.Generator, b: int, signal: float = 1.0) -> np.ndarray:
    return signal * G + SIGMA * random.normal(size=(b, D))


def measure(g: np.ndarray) -> Measurement:
    """What an exact estimator says of these gradients, by the definitions."""
    b, mean = len(g), g.mean(axis=0)
    norm2 = float(mean @ mean)
    variance = float(np.sum((g - mean) ** 2) / (b - 1))
    along = float(np.sum((g @ mean - norm2) ** 2) / (b - 1))
    return Measurement(b, norm2, variance, norm2 - variance / b, projection_variance=along)


def estimate(scale: float, high: float | None = None, low: float | None = None) -> NoiseEstimate:
    high = 1.5 * scale if high is None else high
    return NoiseEstimate(scale, 1.0, scale, scale / 1.5 if low is None else low, high, UNKNOWN, 9)


def situation(b: int, n: int = MANY, found: Measurement | None = None, **more: Any) -> StepContext:
    values = {"step": 0, "samples": 0, "loss": 1.0, "lr": 0.1, "gradient_norm2": 1.0} | more
    if found is not None:
        values["gradient_norm2"] = found.gradient_norm2
    return StepContext(batch_size=b, train_samples=n, measurement=found, **values)


def drive(rule: BatchSizeRule, steps: int, n: int = MANY, seed: int = 0, signal: float = 1.0) -> list[int]:
    """The sizes of batches of Gaussian gradients with covariance diag(SIGMA²) around the same true gradient."""
    random, samples, sizes = np.random.default_rng(seed), 0, []
    decision, state = rule.start(Plan(n, lr=0.1))
    size = decision.batch_size
    assert size is not None
    for step in range(steps):
        found = measure(gradients(random, size, signal))
        now = situation(size, n, found, step=step, samples=samples, noise=estimate(B_NOISE / signal**2))
        decision, state = rule.decide(now, state)
        sizes.append(size)
        samples += size
        size = decision.batch_size or size
    return sizes


def passing(rule: BatchSizeRule, found: Measurement, n: int, carried: int = 2) -> int | None:
    """The size decided after one batch, by a rule that carried a small one; None if it passed."""
    state = rule.start(Plan(n))[1]
    return rule.decide(situation(found.samples, n, found), type(state)(carried))[0].batch_size


# The tests: twins by search, straight from the inequality.


def least_that_passes(noise: float, allowed: float, n: int) -> int:
    return next(b for b in range(1, n + 1) if noise / b * (n - b) / (n - 1) <= allowed * (1 + 1e-12))


@pytest.mark.parametrize("theta", [0.3, 0.9])
def test_norm_test_takes_the_least_batch_that_would_pass(theta: float) -> None:
    random, n = np.random.default_rng(0), 300
    for _ in range(50):
        found = measure(gradients(random, int(random.integers(3, 40)), random.uniform(0, 2)))
        expected = least_that_passes(found.variance, theta**2 * found.gradient_norm2, n)
        assert (passing(NormTest(theta), found, n) or 2) == max(2, expected)
        assert (passing(NormTest(theta, max_size=60), found, n) or 2) == min(60, max(2, expected))


def test_inner_product_and_augmented_test_on_whole_gradients() -> None:
    random, n, theta, nu = np.random.default_rng(1), 300, 0.2, 2.0
    larger = set()
    for _ in range(50):
        g = gradients(random, int(random.integers(3, 40)), random.uniform(0, 4))
        mean = g.mean(axis=0)
        norm2 = float(mean @ mean)
        across = [gi - (gi @ mean) / norm2 * mean for gi in g]
        variance_along = float(np.var(g @ mean, ddof=1))
        variance_across = sum(float(a @ a) for a in across) / (len(g) - 1)  # their mean is zero
        along = max(2, least_that_passes(variance_along, theta**2 * norm2**2, n))
        both = max(along, least_that_passes(variance_across, nu**2 * norm2, n))
        assert (passing(InnerProductTest(theta), measure(g), n) or 2) == along
        assert (passing(AugmentedTest(theta, nu=nu), measure(g), n) or 2) == both
        larger.add(both > along)
    assert larger == {True, False}  # either test decided at times


def test_ada_ada_grad_is_the_norm_test_for_many_samples() -> None:
    random = np.random.default_rng(2)
    for eta in (0.1, 0.5):
        for _ in range(30):
            found = measure(gradients(random, int(random.integers(3, 40)), random.uniform(0, 2)))
            expected = math.ceil(found.variance / (eta**2 * found.gradient_norm2))
            assert passing(AdAdaGrad(eta), found, MANY) == expected
            # At N = 10⁹ the finite population takes off at most b²/N of b < 10⁵ samples, and rounding one.
            assert passing(NormTest(eta), found, MANY) == pytest.approx(expected, abs=1 + expected**2 / MANY)


def test_ddp_norm_rounds_up_to_a_multiple() -> None:
    found = measure(gradients(np.random.default_rng(3), 16))
    plain = passing(DDPNorm(0.5), found, MANY)
    assert plain == passing(AdAdaGrad(0.5), found, MANY)
    rounded = passing(DDPNorm(0.5, multiple_of=48), found, MANY)
    assert plain is not None and rounded == math.ceil(plain / 48) * 48
    assert passing(DDPNorm(0.5, multiple_of=48, max_size=plain + 1), found, MANY) == min(plain + 1, rounded)


@pytest.mark.parametrize("theta", [0.5, 1 / math.sqrt(2), 0.9])
def test_norm_test_asks_in_expectation_for_a_multiple_of_the_noise_scale(theta: float) -> None:
    """At b = (1/θ² - 1)·B_noise the test passes half the time: sizes far off are told apart nearly always."""
    random, balanced = np.random.default_rng(4), (1 / theta**2 - 1) * B_NOISE
    for share, expected in ((0.4, 0.0), (1.0, 0.5), (2.5, 1.0)):
        b = max(2, round(share * balanced))
        passed = [passing(NormTest(theta), measure(gradients(random, b)), MANY, carried=b) is None for _ in range(60)]
        # 60 coin tosses have a standard deviation of 0.065; the median is a little off the mean.
        assert np.mean(passed) == pytest.approx(expected, abs=0.25)


def test_at_a_stationary_point_theta_1_fails_about_every_second_time() -> None:
    random, failures = np.random.default_rng(5), 0
    for _ in range(400):
        found = measure(gradients(random, 16, signal=0.0))
        failures += passing(NormTest(theta=1.0), found, MANY, carried=16) is not None
    assert failures / 400 == pytest.approx(0.5, abs=0.1)  # three standard deviations of 0.025, and the skew of χ²


def test_sizes_carried_never_fall_and_settle_at_the_formula() -> None:
    for rule, expected in [
        (NormTest(theta=0.5), 3 * B_NOISE),
        (AdAdaGrad(theta=0.5), 3 * B_NOISE),
        (UnbiasedNormTest(theta=0.5), 4 * B_NOISE),
        (UnbiasedNormTest(), B_NOISE),
    ]:
        sizes = drive(rule, 60)
        assert sizes == sorted(sizes)
        # Of 60 noisy tests the most demanding stays, which is above the expectation by two or three deviations.
        assert expected * 0.99 <= sizes[-1] <= expected * 1.35


def test_the_whole_data_has_no_noise() -> None:
    found = measure(gradients(np.random.default_rng(6), 50, signal=0.0))
    assert passing(NormTest(theta=0.1), found, 50) is None
    assert (passing(NormTest(theta=0.1), found, 60) or 0) <= 60


def test_the_norm_test_is_big_batch_of_the_next_batch() -> None:
    random, n = np.random.default_rng(8), 10_000
    for _ in range(40):
        found = measure(gradients(random, 20, random.uniform(0.5, 2.5)))
        big, state = BigBatch(theta=0.8, growth=1.0), BigBatch().start(Plan(n))[1]
        grown = big.decide(situation(20, n, found), type(state)(20))[0].batch_size
        assert (grown is None) == (passing(NormTest(theta=0.8), found, n, carried=20) is None)


def test_on_a_quadratic_the_norm_test_leaves_the_floor_of_a_fixed_batch_behind() -> None:
    """f(x) = xᵀHx/2 and gradients Hx + noise: the batch grows as 1/‖Hx‖² and the loss falls at a linear rate."""
    curvature, steps, theta = np.geomspace(0.1, 1.0, D), 120, 0.7

    def losses(rule: BatchSizeRule | None) -> tuple[list[float], list[int], list[float]]:
        random, x, size, samples = np.random.default_rng(12), np.ones(D), 32, 0
        state = None if rule is None else rule.start(Plan(MANY))[1]
        path, sizes, norms = [], [], []
        for place in range(steps):
            mean = curvature * x
            norms.append(float(mean @ mean))
            path.append(float(x @ mean) / 2)
            sizes.append(size)
            # The mean of `size` Gaussian gradients; their variance is taken as known.
            drawn = mean + 0.3 * random.normal(size=D) / math.sqrt(size)
            norm2, variance = float(drawn @ drawn), 0.09 * D
            found = Measurement(size, norm2, variance, norm2 - variance / size)
            if rule is not None:
                decision, state = rule.decide(situation(size, MANY, found, step=place, samples=samples), state)
                samples, size = samples + size, decision.batch_size or size
            x = x - 0.5 * drawn
        return path, sizes, norms

    fixed, grown = losses(None), losses(NormTest(theta))
    # The floor: the coordinate of curvature h has the stationary variance η²σ²/(b·(1 - (1 - ηh)²)).
    floor = float(np.sum(curvature * 0.25 * 0.09 / 32 / (1 - (1 - 0.5 * curvature) ** 2))) / 2
    assert np.mean(fixed[0][-60:]) == pytest.approx(floor, rel=0.2)
    assert grown[0][-1] < 1e-3 * floor
    # While ‖Hx‖² falls by ρ a step, a batch found by the test is that much behind: b = (1/(ρθ²) - 1)·V/‖Hx‖².
    late = range(40, steps)
    pace = (grown[2][40] / grown[2][-1]) ** (1 / (steps - 41))
    ratios = [grown[1][t] * grown[2][t] / ((1 / (pace * theta**2) - 1) * 0.09 * D) for t in late]
    assert pace > 1.05 and np.median(ratios) == pytest.approx(1, rel=0.1)


# What follows the noise scale.


def step(rule: BatchSizeRule, b: int, n: int = MANY, **more: Any) -> tuple[int | None, Decision]:
    state = rule.start(Plan(n))[1]
    decision, _ = rule.decide(situation(b, n, **more), type(state)(b))
    return decision.batch_size, decision


def test_gradient_noise_scale_and_exchange_rate() -> None:
    assert step(GradientNoiseScale(), 32, noise=estimate(500.0))[0] == 500
    assert step(GradientNoiseScale(exchange=80.0), 32, noise=estimate(500.0))[0] == 200
    assert step(GradientNoiseScale(max_size=100), 32, noise=estimate(500.0))[0] == 100
    assert step(GradientNoiseScale(), 32, n=90, noise=estimate(500.0))[0] == 90
    assert step(GradientNoiseScale(min_size=20), 32, noise=estimate(3.0))[0] == 20
    assert step(GradientNoiseScale(), 500, noise=estimate(500.0))[0] is None
    assert batch_size_rule("hysteresis('gradient-noise-scale')") == Hysteresis(GradientNoiseScale())
    costs = {b: 80.0 * (1 + 500.0 / b) + 500.0 * (1 + b / 500.0) for b in range(1, 2000)}  # r·S + E of S_min = 1
    assert min(costs, key=costs.__getitem__) == 200


def test_a_lower_bound_of_the_noise_scale_only_enlarges() -> None:
    for rule in (GradientNoiseScale(), Goodput(initial=8), UnbiasedNormTest()):
        line = {"step_time": StepTime(1e-2, 1e-5, 1000.0, 1.0, 5, 4, 4096)}
        assert step(rule, 64, noise=estimate(9.0, math.inf, 5.0), **line)[0] is None
        grown, decision = step(rule, 64, noise=estimate(9e9, math.inf, 4000.0), **line)
        assert grown is not None and grown > 64 and decision.reason


@settings(max_examples=60, deadline=None)
@given(scale=st.floats(20, 1e5), half=st.floats(20, 1e4), first=st.integers(4, 64))
def test_goodput_is_greatest_at_the_sweet_spot(scale: float, half: float, first: int) -> None:
    line = StepTime(half * 1e-5, 1e-5, half, 1.0, 5, 4, 10**6)
    found, _ = step(Goodput(initial=first, gain=1.0), first, n=10**6, noise=estimate(scale), step_time=line)
    rule = SweetSpot(max_fraction=1.0, floor=1e-9, ceiling=1e9, change=1.0)
    spot = max(first, step(rule, 10**6, n=10**6, noise=estimate(scale), step_time=line)[0] or 10**6)
    spacing = (10**6 / first) ** (1 / 49)
    assert spot / spacing - 1 <= (found or first) <= spot * spacing + 1


def test_goodput_by_hand() -> None:
    line = StepTime(4e-4, 1e-5, 40.0, 1.0, 5, 4, 512)

    def goodput(b: int, phi: float) -> float:
        return b / (4e-4 + 1e-5 * b) * (phi + 16) / (phi + b)

    grid = [round(x) for x in np.geomspace(16, 900, 50)]
    for phi in (1.0, 50.0, 1000.0, 1e6):
        best = max(grid, key=lambda b: goodput(b, phi))
        worth = goodput(best, phi) >= 1.05 * goodput(40, phi)
        assert step(Goodput(initial=16, max_size=900), 40, noise=estimate(phi), step_time=line)[0] == (
            best if worth else None
        )
    assert step(Goodput(initial=16), 16, noise=estimate(1e12), step_time=line)[0] == 1024  # twice the largest timed
    assert step(Goodput(), 32, noise=estimate(50.0))[1].code == "not-timed"


# CABS, DiveBatch, SimiGrad.


def test_cabs_by_hand() -> None:
    random, rule = np.random.default_rng(9), CABS(min_size=1, max_size=500, scale=2.0)
    state, xi, loss = rule.start(Plan(MANY))[1], 0.0, 1.0
    size = 16
    for place in range(60):
        g, f, alpha = gradients(random, size), random.uniform(0.5, 2.0), random.uniform(0.05, 0.2)
        now = situation(size, MANY, measure(g), step=place, loss=f, lr=alpha)
        decision, state = rule.decide(now, state)
        xi = 0.95 * xi + 0.05 * float(np.sum(np.mean(g**2, axis=0) - np.mean(g, axis=0) ** 2))
        loss = 0.95 * loss + 0.05 * f
        size = decision.batch_size or size
        assert size == min(500, max(1, round(2.0 * alpha * xi / loss)))
    assert size == pytest.approx(2 * alpha * VARIANCE / loss, rel=0.15)  # the average has come to 95 %


def test_cabs_halves_with_the_step_and_has_its_largest_batch_at_the_least_loss() -> None:
    found = Measurement(64, 1.0, 9000.0, 0.1)
    sizes = []
    for alpha in (0.1, 0.05):
        now = situation(64, MANY, found, lr=alpha)
        sizes.append(CABS(decay=0.0).decide(now, CABS().start(Plan(MANY))[1])[0].batch_size)
    assert sizes[0] == round(0.1 * 9000 * 63 / 64) and sizes[1] == pytest.approx(sizes[0] / 2, abs=0.5)
    at_least = situation(64, MANY, found, loss=-3.0)
    assert CABS(decay=0.0, least_loss=-3.0).decide(at_least, CABS().start(Plan(MANY))[1])[0].batch_size == 2048


def test_dive_batch_is_the_diversity_of_all_gradients() -> None:
    """With a measurement of all the data in one batch the identity with Σ‖g_i‖²/‖Σg_i‖² is exact."""
    n = 60
    g = gradients(np.random.default_rng(10), n, signal=2.0)
    diversity = n * float(np.sum(g**2)) / float(np.sum(g.sum(axis=0) ** 2))
    rule = DiveBatch(initial=n)
    decision, _ = rule.decide(situation(n, n, measure(g)), rule.start(Plan(n))[1])
    assert decision.batch_size == round(diversity) and decision.evidence["diversity"] == pytest.approx(diversity)
    half, _ = DiveBatch(initial=n, delta=0.5).decide(situation(n, n, measure(g)), rule.start(Plan(n))[1])
    assert half.batch_size == round(diversity / 2)


def test_dive_batch_moves_at_the_end_of_an_epoch_to_one_noise_scale_and_one() -> None:
    n = 20_000
    sizes = drive(DiveBatch(initial=100), 260, n)
    assert set(sizes[:200]) == {100} and len(set(sizes[200:])) == 1
    expected = (VARIANCE + SIGNAL) / (SIGNAL + VARIANCE / n)
    assert expected == pytest.approx(1 + B_NOISE, rel=0.01)
    assert sizes[200] == pytest.approx(expected, rel=0.05)  # ŝ over 200 measurements has an error of about 1 %


def test_the_cosine_of_halves_is_exact_over_all_halves() -> None:
    g = gradients(np.random.default_rng(11), 6, signal=2.0)
    halves = [g[list(chosen)].mean(axis=0) for chosen in combinations(range(6), 3)]
    products = float(np.mean([half @ (2 * g.mean(axis=0) - half) for half in halves]))  # the other half is the rest
    squares = float(np.mean([half @ half for half in halves]))
    decision, _ = SimiGrad(target=0.999).decide(situation(6, MANY, measure(g)), SimiGrad().start(Plan(MANY))[1])
    assert decision.evidence["cosine"] == pytest.approx(products / squares, rel=1e-12)


@pytest.mark.parametrize("target", [0.2, 0.5])
def test_simi_grad_settles_where_the_cosine_is_the_target(target: float) -> None:
    sizes = drive(SimiGrad(initial=8, target=target, max_size=None), 400)
    expected = 2 * B_NOISE * target / (1 - target)
    # Each decision goes by the sign of a noisy difference, so the size wanders by a few steps of 10 %.
    assert math.exp(np.mean(np.log(sizes[100:]))) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: NormTest(theta=1.5), "NormTest.theta"),
        (lambda: NormTest(initial=1), "NormTest.initial"),
        (lambda: AdAdaGrad(theta=0), "AdAdaGrad.theta"),
        (lambda: UnbiasedNormTest(max_size=1), "UnbiasedNormTest.max_size"),
        (lambda: DDPNorm(multiple_of=0), "DDPNorm.multiple_of"),
        (lambda: InnerProductTest(theta=-1), "InnerProductTest.theta"),
        (lambda: AugmentedTest(nu=0), "AugmentedTest.nu"),
        (lambda: GradientNoiseScale(exchange=0), "GradientNoiseScale.exchange"),
        (lambda: GradientNoiseScale(min_size=9, max_size=8), "swap them"),
        (lambda: Goodput(sizes=1), "Goodput.sizes"),
        (lambda: Goodput(gain=0.5), "Goodput.gain"),
        (lambda: CABS(decay=1.0), "CABS.decay"),
        (lambda: CABS(scale=0), "CABS.scale"),
        (lambda: DiveBatch(delta=0), "DiveBatch.delta"),
        (lambda: SimiGrad(target=1.0), "SimiGrad.target"),
        (lambda: SimiGrad(growth=0), "SimiGrad.growth"),
    ],
)
def test_refuses_impossible_settings(build: Any, words: str) -> None:
    with pytest.raises(InputError) as caught:
        build()
    assert words in str(caught.value)
