"""The range test stepped by hand on known losses."""

import math
import random
from itertools import pairwise

import pytest

from rightbatch.errors import InputError
from rightbatch.rules.lr import RangeTest
from rightbatch.rules.lr.range_test import MOST_BROKEN, RangeState


def descend(curvature: float, noise: float, start: float) -> RangeState:
    """Gradient descent on 0.5·curvature·x² + 1 from x = 3 under the test's step sizes."""
    rule, source = RangeTest(), random.Random(0)
    state, x = rule.start(start), 3.0
    while not state.finished:
        state = rule.observe(state, 0.5 * curvature * x * x + 1 + source.gauss(0.0, noise))
        x -= state.step_size * curvature * x
    return state


@pytest.mark.parametrize("curvature", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_the_step_size_found_scales_with_the_curvature(curvature: float, noise: float) -> None:
    """Descent on a parabola is stable up to 2/curvature; the blow-up is seen within a few factors of 1.4 beyond."""
    rule = RangeTest()
    state = descend(curvature, noise * curvature, 1e-6 / curvature)
    assert 2 <= curvature * rule.diverged_at(state) <= 2 * 1.4**6
    assert 0.02 <= curvature * rule.progress_at(state) <= 2
    assert rule.base(state) == pytest.approx(4.5 * curvature + 1, rel=0.05)


def test_step_sizes_hold_then_double_then_rise_by_the_factor() -> None:
    rule = RangeTest(reference_steps=3)
    state, sizes = rule.start(1e-3), []
    for loss in (1.0, 1.0, 1.0, 1.0, 1.0, 0.9, 0.8):
        state = rule.observe(state, loss)
        sizes.append(state.step_size)
    ratios = [b / a for a, b in pairwise(sizes)]
    assert sizes[0] == 1e-3 and ratios == pytest.approx([1.0, 1.4, 2.0, 2.0, 1.4, 1.4])
    assert state.improved and not state.finished


def test_noise_alone_does_not_end_it() -> None:
    """Losses that only scatter end it by the number of steps: a false end takes 5 sigma, below 1e-6 a step."""
    rule, source = RangeTest(most_steps=60), random.Random(3)
    state = rule.start(1e-5)
    while not state.finished:
        state = rule.observe(state, 2.0 + source.gauss(0.0, 0.1))
    assert state.seen == 60


def test_progress_is_where_four_fifths_of_the_drop_were_made() -> None:
    rule = RangeTest()
    state = rule.start(1.0)
    for loss in (1.0, 1.0, 1.0, 1.0, 1.0, 0.9, 0.6, 0.19, 0.1, 9.0):
        state = rule.observe(state, loss)
    assert state.finished
    assert rule.progress_at(state) == next(size for size, loss in state.trace if loss <= 1 - 0.8 * 0.9)
    assert rule.progress_at(RangeState(5.0, finished=True, total=1.0, seen=1, lowest=2.0)) == 0.5


def test_one_broken_batch_before_any_progress_is_not_the_step_sizes_fault() -> None:
    rule = RangeTest()
    state = rule.observe(rule.start(1e-8), math.nan)
    assert not state.finished and state.step_size == 1e-8
    for _ in range(MOST_BROKEN - 1):
        state = rule.observe(state, math.inf)
    assert state.finished


def test_a_broken_loss_after_progress_ends_it() -> None:
    rule = RangeTest()
    state = rule.start(1e-3)
    for loss in (1.0, 1.0, 1.0, 1.0, 1.0, 0.9, 0.7):
        state = rule.observe(state, loss)
    assert rule.observe(state, math.nan).finished
    assert rule.observe(rule.observe(state, math.nan), 0.1).step_size == state.step_size, "what is over stays over"


@pytest.mark.parametrize(
    "settings", [{"reference_steps": 1}, {"factor": 1.0}, {"coarse_factor": 0.5}, {"most_steps": 5}]
)
def test_refuses_impossible_settings(settings: dict[str, float]) -> None:
    with pytest.raises(InputError, match="range test"):
        RangeTest(**settings)  # type: ignore[arg-type]
