"""The clock on a machine whose speed changes while the run goes on."""

import pytest

from rightbatch.training.step_clock import COMPARE_EVERY_STEPS, LEAST_COMPARED, StepClock

FIXED_S, EACH_S, UPDATE_S = 1e-3, 1e-5, 5e-4
HALF = (FIXED_S + UPDATE_S) / EACH_S


def ready() -> StepClock:
    """A clock that has climbed a ladder up to 512 examples and knows the seconds of an update."""
    clock = StepClock()
    clock.start_ladder(10**6, 512)
    size = clock.climb(0.0)
    while size is not None:
        size = clock.climb(FIXED_S + EACH_S * size)
    for _ in range(3):
        clock.add(64, FIXED_S + UPDATE_S + EACH_S * 64, UPDATE_S)
    return clock


def run(clock: StepClock, steps: int, batch: int, load: float, each_s: float = EACH_S) -> None:
    """Take steps on a machine slowed down by `load`."""
    for step in range(steps):
        sizes = clock.cut(step, batch)
        if sizes is None:
            clock.add(batch, load * (FIXED_S + UPDATE_S + each_s * batch), load * UPDATE_S)
        else:
            clock.compare([(b, load * (FIXED_S + each_s * b)) for b in sizes], load * UPDATE_S)


def test_a_slower_machine_does_not_change_the_shape() -> None:
    """Eight times slower, at one size only: an ordinary fit of all times would put n½ at a few examples."""
    clock = ready()
    run(clock, 200, 300, load=8.0)
    fit, present = clock.fit(), clock.present()
    assert fit is not None and present is not None
    assert fit.half_performance == pytest.approx(HALF, rel=1e-6)
    assert present.seconds(300) == pytest.approx(8 * (FIXED_S + UPDATE_S + EACH_S * 300), rel=1e-6)
    assert present.half_performance == fit.half_performance


def test_a_change_of_shape_is_followed() -> None:
    """Examples become four times dearer while the fixed cost stays: n½ goes towards a quarter."""
    clock = ready()
    for _ in range(20):
        run(clock, 2 * COMPARE_EVERY_STEPS, 512, load=1.0, each_s=4 * EACH_S)
    fit = clock.fit()
    assert fit is not None
    # The eight single times of the ladder, of the old shape, still weigh two thirds of the two sizes compared since.
    assert HALF / 4 < fit.half_performance < 0.65 * HALF


def test_comparisons_are_due_now_and_then_and_beyond_what_was_timed() -> None:
    clock = ready()
    due = [step for step in range(4 * COMPARE_EVERY_STEPS) if clock.cut(step, 256) is not None]
    assert due == [COMPARE_EVERY_STEPS * k + COMPARE_EVERY_STEPS // 2 for k in range(4)]
    assert clock.cut(1, 1024) == (128, 768, 128), "twice the largest timed: compared at once"
    assert clock.cut(due[0], LEAST_COMPARED - 1) is None
    assert sum(clock.cut(due[0], 333) or ()) == 333
    assert StepClock().cut(due[0], 256) is None, "without a ladder nothing is compared"
