import json
import math
import random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rightbatch.errors import InputError
from rightbatch.loop.timing.step_time_model import StepTimeModel


def timed(points: list[tuple[int, float]]) -> StepTimeModel:
    timer = StepTimeModel()
    for samples, seconds in points:
        timer.add(samples, seconds)
    return timer


def twin(points: list[tuple[int, float]]) -> tuple[float, float]:
    """Least squares on relative error, one time a size, all weights equal, by NumPy."""
    b, t = np.array(points, dtype=np.float64).T
    solution, *_ = np.linalg.lstsq(np.stack([1 / t, b / t], axis=1), np.ones(len(t)), rcond=None)
    return float(solution[0]), float(solution[1])


def test_recovers_a_straight_line() -> None:
    fit = timed([(b, 2e-3 + 1e-5 * b) for b in (8, 32, 128, 512) for _ in range(4)]).fit()
    assert fit is not None
    assert fit.fixed_s == pytest.approx(2e-3) and fit.per_sample_s == pytest.approx(1e-5)
    assert fit.half_performance == pytest.approx(200)
    assert (fit.sizes, fit.smallest, fit.largest) == (4, 8, 512)
    assert 0 < fit.standard_error < 40


def test_agrees_with_least_squares_where_all_weights_are_equal() -> None:
    points = [(4, 1.3e-3), (16, 1.5e-3), (64, 2.7e-3), (256, 6.1e-3), (1024, 23e-3)]
    fit = timed(points).fit()
    assert fit is not None
    assert (fit.fixed_s, fit.per_sample_s) == pytest.approx(twin(points), rel=1e-9)


def test_asks_for_three_sizes_over_a_range_of_four() -> None:
    assert StepTimeModel().fit() is None
    assert timed([(8, 1.0), (64, 2.0)]).fit() is None
    assert timed([(8, 1.0), (16, 2.0), (31, 3.0)]).fit() is None
    assert timed([(1000, 1.0), (1001, 1.0), (8000, 2.0)]).fit() is None
    assert timed([(8, 1.0), (16, 2.0), (32, 3.0)]).fit() is not None


def test_one_time_in_five_five_times_too_long_barely_matters() -> None:
    source, true_half = random.Random(0), 50.0
    timer = StepTimeModel()
    for _ in range(31):
        for samples in (4, 8, 16, 32, 64, 128, 256):
            seconds = 1e-3 * (1 + samples / true_half) * source.lognormvariate(0.0, 0.05)
            timer.add(samples, seconds * (5 if source.random() < 0.2 else 1))
    fit = timer.fit()
    assert fit is not None
    # A median of 31 times of 5 % spread errs by about 1 %, n½ by about 4 %; the outliers shift all sizes alike.
    assert fit.half_performance == pytest.approx(true_half, rel=0.12)


def test_standard_error_covers_the_scatter() -> None:
    source, errors, stated = random.Random(1), [], []
    for _ in range(200):
        timer = StepTimeModel()
        for samples in (4, 8, 16, 32, 64, 128):
            for _ in range(3):
                timer.add(samples, (1 + samples / 40) * source.lognormvariate(0.0, 0.1))
        fit = timer.fit()
        assert fit is not None
        errors.append(fit.half_performance - 40)
        stated.append(fit.standard_error)
    scatter, middle = math.sqrt(sum(e * e for e in errors) / 200), sorted(stated)[100]
    # It allows for a line's own error of 5 %, which these exact lines do not have, so it states a little too much.
    assert 0.9 * scatter < middle < 2 * scatter


def test_stays_within_limits_where_the_line_is_flat_or_through_zero() -> None:
    flat = timed([(b, 1e-3) for b in (8, 32, 128)]).fit()
    falling = timed([(8, 4e-3), (32, 2e-3), (128, 1e-3)]).fit()
    through_zero = timed([(b, 1e-5 * b) for b in (8, 32, 128)]).fit()
    steeper = timed([(8, 1e-5), (32, 5e-4), (128, 9e-3)]).fit()
    assert flat is not None and falling is not None and through_zero is not None and steeper is not None
    assert flat.half_performance == falling.half_performance == 16 * 128
    assert through_zero.half_performance == pytest.approx(1) and steeper.half_performance == pytest.approx(1)
    assert through_zero.per_sample_s > 0 and flat.per_sample_s > 0


def test_follows_a_machine_that_changes() -> None:
    timer = StepTimeModel()
    for factor in (1.0, 3.0):
        for _ in range(31):
            for samples in (8, 32, 128):
                timer.add(samples, factor * (1e-3 + 1e-5 * samples))
    fit = timer.fit()
    assert fit is not None and fit.fixed_s == pytest.approx(3e-3)
    assert [count for _, _, count in timer.points()] == [31, 31, 31]


def test_near_sizes_count_as_one() -> None:
    timer = timed([(1000, 1.0), (1001, 1.0), (1002, 1.0)])
    assert timer.points() == [(1001, 1.0, 3)]


def test_a_fit_is_kept_until_enough_is_new() -> None:
    timer = timed([(b, 1e-3 + 1e-5 * b) for _ in range(31) for b in (8, 32, 128)])
    first = timer.fit()
    timer.add(128, 1.0)
    assert timer.fit() is first
    for _ in range(7):
        timer.add(128, 1.0)
    assert timer.fit() is not first
    timer.add(512, 6e-3)  # a new size is news at once
    renewed = timer.fit()
    assert renewed is not None and renewed.largest == 512


def test_state_continues_bit_for_bit() -> None:
    source = random.Random(2)
    timer, copy = StepTimeModel(), StepTimeModel()
    copy.add(77, 1.0)
    for step in range(400):
        timer.add(source.choice((4, 8, 16, 17, 64, 65, 300)), source.uniform(1e-3, 2e-3))
        if step == 203:
            timer.fit()
            copy.load_state_dict(json.loads(json.dumps(timer.state_dict())))
            source_copy = random.Random()
            source_copy.setstate(source.getstate())
        if step > 203:
            copy.add(source_copy.choice((4, 8, 16, 17, 64, 65, 300)), source_copy.uniform(1e-3, 2e-3))
            assert copy.fit() == timer.fit()
    assert copy.state_dict() == timer.state_dict() and copy.points() == timer.points()


def test_leaves_out_broken_times_and_refuses_broken_sizes() -> None:
    timer = timed([(8, 0.0), (8, -1.0), (8, math.nan), (8, math.inf)])
    assert timer.points() == []
    with pytest.raises(InputError, match="at least 1"):
        timer.add(0, 1.0)


@settings(max_examples=60, deadline=None)
@example([(1, 6.0), (2, 10.0), (5, 1e-7)])
@given(st.lists(st.tuples(st.integers(1, 10**6), st.floats(1e-7, 1e4)), max_size=40))
def test_whatever_the_times_the_fit_is_sensible(points: list[tuple[int, float]]) -> None:
    fit = timed(points).fit()
    if fit is not None:
        assert fit.fixed_s > 0 and fit.per_sample_s > 0
        assert 1 - 1e-9 <= fit.half_performance <= 16 * fit.largest * (1 + 1e-9)
        assert fit.standard_error >= 0 and math.isfinite(fit.standard_error)
        assert fit.seconds(fit.smallest) > 0
