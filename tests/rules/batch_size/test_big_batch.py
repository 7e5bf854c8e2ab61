from dataclasses import replace

import numpy as np
import pytest

from rightbatch.decision import Plan, StepContext
from rightbatch.errors import InputError
from rightbatch.measurements import Measurement
from rightbatch.rules.batch_size import BigBatch
from rightbatch.rules.batch_size.big_batch import BigBatchState

N = 1000


def situation(samples: int, gradient_norm2: float, variance: float, train_samples: int = N) -> StepContext:
    measurement = Measurement(samples, gradient_norm2, variance, gradient_norm2 - variance / samples)
    return StepContext(0, 0, samples, train_samples, 1.0, gradient_norm2, 0.1, measurement)


def twin(gradients: np.ndarray, train_samples: int, theta: float) -> bool:
    """Whether the batch passes, straight from the formula."""
    b = len(gradients)
    mean = gradients.mean(axis=0)
    variance = sum(float(np.sum((g - mean) ** 2)) for g in gradients) / (b - 1)
    return variance / b * (1 - b / train_samples) <= theta**2 * float(np.sum(mean**2))


def measured(gradients: np.ndarray, train_samples: int) -> StepContext:
    b = len(gradients)
    mean = gradients.mean(axis=0)
    variance = float((np.sum(gradients**2) - b * np.sum(mean**2)) / (b - 1))
    return situation(b, float(np.sum(mean**2)), variance, train_samples)


@pytest.mark.parametrize("theta", [1.0, 0.5])
def test_agrees_with_the_formula(theta: float) -> None:
    random = np.random.default_rng(0)
    rule = BigBatch(theta=theta)
    outcomes = set()
    for _ in range(200):
        b = int(random.integers(2, 40))
        gradients = random.normal(random.uniform(0, 0.4), 1.0, size=(b, 6))
        decision, _ = rule.decide(measured(gradients, 60), BigBatchState(b))
        passes = twin(gradients, 60, theta)
        assert (decision.batch_size is None) == passes
        outcomes.add(passes)
    assert outcomes == {True, False}


def test_adds_a_tenth_and_at_least_one_sample() -> None:
    rule = BigBatch()
    assert rule.decide(situation(100, 0.1, 50.0), BigBatchState(100))[0].batch_size == 110
    assert rule.decide(situation(4, 0.1, 50.0), BigBatchState(4))[0].batch_size == 5
    assert BigBatch(growth=1.0).decide(situation(800, 1e-9, 50.0), BigBatchState(800))[0].batch_size == N


def test_size_is_carried_on_and_a_short_batch_is_first_filled() -> None:
    rule = BigBatch()
    decision, state = rule.decide(situation(7, 0.1, 50.0), BigBatchState(100))
    assert decision.batch_size == 100 and state.batch_size == 100
    decision, state = rule.decide(situation(100, 9.0, 50.0), state)
    assert decision.batch_size is None and state.batch_size == 100


def test_kappa_and_theta_are_one_setting() -> None:
    assert BigBatch().theta2 == 1.0
    assert BigBatch(kappa=3).theta2 == BigBatch(theta=0.5).theta2 == 0.25
    with pytest.raises(InputError, match="give one"):
        BigBatch(theta=1.0, kappa=0)


def test_kappa_asks_for_that_many_noise_scales_in_expectation() -> None:
    signal, variance, train_samples = 2.0, 100.0, 10**9  # a noise scale of 50
    for b, passes in ((149, False), (151, True)):
        now = situation(b, signal + variance / b, variance, train_samples)
        assert (BigBatch(kappa=3).decide(now, BigBatchState(b))[0].batch_size is None) == passes


def test_all_the_data_has_no_noise() -> None:
    now = situation(N, 1e-3, 1e9)
    decision, state = BigBatch().decide(now, BigBatchState(N))
    assert decision.batch_size is None and decision.action is None and state.largest_signal == 1e-3
    assert BigBatch().decide(replace(now, measurement=None), BigBatchState(N))[0] == decision
    # One sample short of it, the finite population already takes away nearly all of it.
    variance = 1e-3 * (N - 1) * N * 0.99
    assert BigBatch().decide(situation(N - 1, 1e-3, variance), BigBatchState(N - 1))[0].batch_size is None


def test_theta_one_fails_about_half_the_time_at_a_stationary_point() -> None:
    random = np.random.default_rng(0)
    rule, draws = BigBatch(), 1000
    failures = sum(
        rule.decide(measured(random.normal(size=(16, 200)), 10**9), BigBatchState(16))[0].batch_size is not None
        for _ in range(draws)
    )
    # ‖g_B‖² - V̂/b has mean 0 and is slightly skewed; 0.46-0.57 is the median's share of it plus 3.5 standard errors.
    assert 0.46 < failures / draws < 0.57


def test_stops_when_the_gradient_has_fallen_by_the_tolerance() -> None:
    rule = BigBatch(tolerance=1e-2)
    _, state = rule.decide(situation(N, 4.0, 1.0), BigBatchState(N))
    decision, state = rule.decide(situation(N, 4.1e-4, 1.0), state)
    assert decision.action is None
    decision, _ = rule.decide(situation(N, 3.9e-4, 1.0), state)
    assert decision.action == "stop" and decision.code == "converged"
    assert BigBatch(tolerance=0).decide(situation(N, 3.9e-4, 1.0), state)[0].action is None


def test_never_stops_below_the_cap() -> None:
    decision, _ = BigBatch().decide(situation(10, 1e-20, 1e-25), BigBatchState(10, largest_signal=1.0))
    assert decision.action is None


def test_stops_when_capped_batches_keep_showing_no_signal() -> None:
    rule = BigBatch(max_size=100, patience=3)
    state = BigBatchState(100, largest_signal=1.0)
    silent, heard = situation(100, 0.1, 50.0), situation(100, 0.6, 50.0)
    actions = []
    for now in (silent, silent, heard, silent, silent, silent):
        decision, state = rule.decide(now, state)
        actions.append(decision.action)
        assert decision.batch_size is None
    assert actions == [None, None, None, None, None, "stop"]


def test_a_capped_batch_that_fails_its_test_but_carries_signal_goes_on() -> None:
    rule = BigBatch(kappa=10, max_size=100, patience=1)
    decision, state = rule.decide(situation(100, 0.6, 50.0), BigBatchState(100))
    assert decision.action is None and state.silent_batches == 0


def test_holds_without_evidence() -> None:
    state = BigBatchState(10)
    for now in (
        replace(situation(10, 1.0, 1.0), measurement=None),
        situation(10, float("nan"), 1.0),
        situation(10, float("inf"), 1.0),
        situation(10, 1.0, float("nan")),
    ):
        decision, after = BigBatch().decide(now, state)
        assert decision.batch_size is None and decision.action is None and after == state


def test_starts_within_the_data() -> None:
    assert BigBatch().start(Plan(train_samples=20))[0].batch_size == 20
    assert BigBatch(max_size=16).start(Plan(train_samples=N))[0].batch_size == 16


@pytest.mark.parametrize(
    "settings",
    [
        {"theta": 0.0},
        {"theta": 1.5},
        {"theta": "1"},
        {"kappa": -1},
        {"initial": 1},
        {"initial": 10.5},
        {"growth": 0},
        {"max_size": 1},
        {"tolerance": -1e-3},
        {"tolerance": float("nan")},
        {"patience": -1},
        {"patience": True},
    ],
)
def test_refuses_impossible_settings(settings: dict[str, object]) -> None:
    with pytest.raises(InputError, match="BigBatch"):
        BigBatch(**settings)  # type: ignore[arg-type]


def test_grows_by_itself_while_the_true_gradient_falls_linearly() -> None:
    """Fixed-step Big Batch on noisy centres: f_i(x) = ‖x - z_i‖²/2, noisy at the optimum too.

    With θ < 1, as the theory asks; at θ = 1 the same run lingers at each batch size until the test fails by chance.
    """
    random = np.random.default_rng(1)
    n, d, step = 4000, 20, 0.5
    centres = random.normal(0.0, 1.0, size=(n, d))
    x = np.full(d, 30.0)
    rule = BigBatch(theta=0.5, initial=2, tolerance=1e-4)
    decision, state = rule.start(Plan(train_samples=n))
    assert decision.batch_size is not None
    samples, sizes, norms = decision.batch_size, [], []
    for t in range(60):
        drawn = random.permutation(n)
        while True:
            now = measured(x - centres[drawn[:samples]], n)
            decision, state = rule.decide(replace(now, step=t), state)
            if decision.batch_size is None or decision.batch_size <= samples:
                break
            samples = decision.batch_size
        sizes.append(samples)
        norms.append(float(np.linalg.norm(x - centres.mean(axis=0))))
        if decision.action == "stop":
            break
        x = x - step * (x - centres[drawn[:samples]]).mean(axis=0)
    assert decision.action == "stop"
    assert sizes == sorted(sizes) and sizes[0] == 2 and sizes[-1] == n
    slope, offset = np.polyfit(np.arange(len(norms)), np.log(norms), 1)
    # Halved by every step on clean gradients; the noise let through costs some of that, not the straight line.
    assert -0.75 < slope < -0.4
    assert np.abs(np.log(norms) - (offset + slope * np.arange(len(norms)))).max() < 1.5
