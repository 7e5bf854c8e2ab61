"""The timing ladder stepped by hand, and the clock that makes step times of it."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rightbatch.loop.timing.step_timer import UPDATES_TO_TIME, StepTimer
from rightbatch.loop.timing.timing_sweep import (
    ENOUGH_SLOWDOWN,
    LEAST_ELAPSED_S,
    REPEAT_SHARE,
    REPEATS,
    WARM_UP,
    timing_sweep,
)


def climb(
    seconds: Callable[[int], float], most_samples: int = 10**6, most_size: int = 4096
) -> tuple[list[int], list[tuple[int, float]]]:
    """Every size asked for, and the points at the end."""
    asked: list[int] = []
    generator = timing_sweep(most_samples, most_size)
    try:
        size = next(generator)
        while True:
            asked.append(size)
            size = generator.send(seconds(size))
    except StopIteration as end:
        return asked, end.value


def test_known_hardware() -> None:
    """t = 1 ms + 10 µs·b: sizes double until one takes 3.5 times as long as 4 samples, here 512."""
    asked, points = climb(lambda b: 1e-3 + 1e-5 * b)
    assert tuple(asked[:2]) == WARM_UP
    assert [size for size, _ in points] == [4, 8, 16, 32, 64, 128, 256, 512]
    for size, seconds in points:
        assert seconds == pytest.approx(1e-3 + 1e-5 * size)
    assert points[-1][1] > ENOUGH_SLOWDOWN * points[0][1] > points[-2][1]
    assert [asked[2:].count(size) for size, _ in points[:4]] == [REPEATS[1]] * 4


def test_repeats_end_when_they_cost_too_much() -> None:
    """One of 4 takes 8 ms: above 5 % of 0.1 s already, so every size is timed twice and not a third time."""
    asked, points = climb(lambda b: 8e-3 + 1e-6 * b, most_size=64)
    assert asked == [*WARM_UP, 4, 4, 8, 8, 16, 16, 32, 32, 64, 64]
    assert REPEAT_SHARE * LEAST_ELAPSED_S < 8e-3
    assert len(points) == 5


def test_the_shortest_of_the_repeats() -> None:
    times = iter([9.0, 9.0, 1e-3, 5e-3, 2e-3, 1.0, 1.0, 1.0])
    _, points = climb(lambda _: next(times), most_size=8)
    assert points[0] == (4, 1e-3)


def test_one_disturbed_time_does_not_end_it() -> None:
    """A size of 8 that takes a hundred times too long once is timed again and found quick."""
    calls: list[int] = []

    def seconds(b: int) -> float:
        calls.append(b)
        first_after_warm_up = b == 8 and calls.count(8) == 2
        return 0.3 if first_after_warm_up else 1e-3 + 1e-5 * b

    _, points = climb(seconds)
    assert [size for size, _ in points] == [4, 8, 16, 32, 64, 128, 256, 512]


@pytest.mark.parametrize(("most_samples", "most_size"), [(0, 4096), (3, 4096), (1000, 3), (0, 0)])
def test_nothing_to_climb(most_samples: int, most_size: int) -> None:
    assert climb(lambda _: 1e-3, most_samples, most_size) == ([], [])


@settings(max_examples=60, deadline=None)
@given(
    st.floats(1e-6, 0.05),
    st.floats(0, 1e-3),
    st.integers(0, 5000),
    st.integers(0, 600),
)
def test_bounds_are_kept(fixed_s: float, each_s: float, most_samples: int, most_size: int) -> None:
    asked, points = climb(lambda b: fixed_s + each_s * b, most_samples, most_size)
    assert sum(asked) <= most_samples
    assert all(4 <= size <= most_size for size in asked)
    assert all(size & (size - 1) == 0 for size in asked)
    counted = asked[2:] if asked[:2] == list(WARM_UP) else asked[1:] if asked[:1] == [8] else asked
    assert max([counted.count(size) for size, _ in points], default=0) <= REPEATS[1] + 2
    sizes = [size for size, _ in points]
    assert sizes == [4 * 2**k for k in range(len(sizes))]
    assert all(t <= ENOUGH_SLOWDOWN * points[0][1] for _, t in points[:-1])


def start(clock: StepTimer, fixed_s: float, each_s: float) -> int:
    """Climb to the end; return how many samples that took."""
    clock.start_sweep(10**6, 4096)
    drawn, size = 0, clock.sweep_on(0.0)
    while size is not None:
        drawn += size
        size = clock.sweep_on(fixed_s + each_s * size)
    return drawn


def test_the_clock_adds_the_update_to_the_ladder() -> None:
    """Passes take 1 ms + 10 µs·b, an update 0.5 ms: a step takes 1.5 ms + 10 µs·b, so that n½ is 150."""
    clock = StepTimer()
    assert clock.sweep_on(0.0) is None
    assert start(clock, 1e-3, 1e-5) > 500
    assert clock.fit() is None, "the seconds of an update are not known yet"
    for _ in range(UPDATES_TO_TIME):
        assert clock.fit() is None
        clock.add(64, 1.5e-3 + 1e-5 * 64, 5e-4)
    fitted = clock.fit()
    assert fitted is not None
    assert fitted.fixed_s == pytest.approx(1.5e-3, rel=1e-6)
    assert fitted.per_sample_s == pytest.approx(1e-5, rel=1e-6)
    assert fitted.half_performance == pytest.approx(150, rel=1e-6)
    assert [size for size, _, _ in clock.points()] == [4, 8, 16, 32, 64, 128, 256, 512]


def test_one_slow_update_does_not_count() -> None:
    clock = StepTimer()
    start(clock, 1e-3, 1e-5)
    for update_s in (5e-4, 9.0, 5e-4):
        clock.add(64, 1.5e-3 + 1e-5 * 64, update_s)
    fitted = clock.fit()
    assert fitted is not None and fitted.half_performance == pytest.approx(150, rel=1e-6)


def test_an_abandoned_ladder_leaves_nothing() -> None:
    clock = StepTimer()
    clock.start_sweep(10**6, 4096)
    assert clock.sweep_on(0.0) == 8
    clock.abandon_sweep()
    assert clock.sweep_on(1e-3) is None
    assert clock.points() == []
    clock.start_sweep(10**6, 4096)
    assert clock.sweep_on(5.0) == 8, "a new one begins anew"


@pytest.mark.parametrize("updates", [1, UPDATES_TO_TIME])
def test_the_clock_goes_on_from_its_state(updates: int) -> None:
    clock, again = StepTimer(), StepTimer()
    start(clock, 1e-3, 1e-5)
    for _ in range(updates):
        clock.add(64, 2e-3, 5e-4)
    again.load_state_dict(clock.state_dict())
    for each in (clock, again):
        for _ in range(4):
            each.add(80, 2.5e-3, 6e-4)
    assert again.points() == clock.points()
    assert again.fit() == clock.fit() is not None
