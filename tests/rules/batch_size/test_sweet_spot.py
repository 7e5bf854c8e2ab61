import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rightbatch.decision import Plan, StepContext
from rightbatch.errors import InputError
from rightbatch.measurements import UNKNOWN, NoiseEstimate, StepTime
from rightbatch.rules.batch_size import SweetSpot
from rightbatch.rules.batch_size.sweet_spot import SweetSpotState

N = 60_000


def noise(scale: float, low: float | None = None, high: float | None = None) -> NoiseEstimate:
    low, high = scale / 1.5 if low is None else low, scale * 1.5 if high is None else high
    return NoiseEstimate(scale, 1.0, scale, low, high, UNKNOWN, measurements=10)


def step_time(half: float) -> StepTime:
    return StepTime(half * 1e-5, 1e-5, half, 0.1 * half, sizes=6, smallest=4, largest=8192)


def situation(
    step: int, scale: NoiseEstimate | None, half: float | None, samples: int = 32, train_samples: int = N
) -> StepContext:
    timed = None if half is None else step_time(half)
    return StepContext(step, 0, samples, train_samples, 1.0, 1.0, 0.1, noise=scale, step_time=timed)


def test_moves_to_the_geometric_mean_and_says_why() -> None:
    rule = SweetSpot()
    decision, state = rule.start(Plan(train_samples=N))
    assert decision.batch_size == 32
    decision, state = rule.decide(situation(0, noise(512, 300, 900), 45), state)
    assert decision.batch_size == 152 == round(math.sqrt(512 * 45))
    assert decision.code == "sweet-spot" and "512" in decision.reason and "152" in decision.reason
    assert decision.evidence["sweet_spot"] == pytest.approx(math.sqrt(512 * 45))


def test_the_geometric_mean_takes_the_least_time() -> None:
    scale, half = 700.0, 60.0

    def cost(b: float) -> float:
        return (1 + scale / b) * step_time(half).seconds(b)

    best = min(range(1, 5000), key=cost)
    decision, _ = SweetSpot(ceiling=100.0).decide(situation(0, noise(scale), half), SweetSpotState(32))
    assert decision.batch_size == best


@pytest.mark.parametrize(
    ("scale", "half", "code"),
    [
        (None, None, "not-timed"),
        (noise(512), None, "not-timed"),
        (None, 45.0, "not-measured"),
        (noise(512, math.nan, math.inf), 45.0, "not-measured"),
    ],
)
def test_holds_while_the_evidence_is_thin(scale: NoiseEstimate | None, half: float | None, code: str) -> None:
    state = SweetSpotState(32)
    decision, after = SweetSpot().decide(situation(5, scale, half), state)
    assert decision.batch_size is None and decision.code == code and after is state


def test_a_floor_of_one_or_more_needs_no_noise() -> None:
    rule = SweetSpot(floor=3, ceiling=8)
    decision, state = rule.decide(situation(0, None, 45), SweetSpotState(32))
    assert decision.batch_size == 135 and "45" in decision.reason
    decision, _ = rule.decide(situation(20, noise(100_000), 45), state)
    assert decision.batch_size == 270  # towards 8 · 45, at most doubled


def test_an_unknown_signal_may_enlarge_the_batch_but_not_shrink_it() -> None:
    at_least = noise(math.inf, low=2000, high=math.inf)
    rule = SweetSpot(ceiling=100)
    decision, _ = rule.decide(situation(0, at_least, 50), SweetSpotState(64))
    assert decision.batch_size == 316 and "at least 2000" in decision.reason
    assert rule.decide(situation(0, at_least, 50), SweetSpotState(1000))[0].batch_size is None


def test_small_changes_leave_the_size_alone() -> None:
    rule, half = SweetSpot(change=1.25), 100.0
    for ratio, moves in ((0.79, True), (0.81, False), (1.24, False), (1.26, True)):
        decision, _ = rule.decide(situation(99, noise((100 * ratio) ** 2 / half), half), SweetSpotState(100))
        assert (decision.batch_size is not None) == moves


def test_a_new_size_stays_for_a_while_and_then_at_most_doubles() -> None:
    rule = SweetSpot(dwell_steps=8, ceiling=100)
    decision, state = rule.decide(situation(3, noise(200), 50), SweetSpotState(32))
    assert decision.batch_size == 100
    for step in range(4, 11):
        decision, state = rule.decide(situation(step, noise(50_000), 50), state)
        assert decision.batch_size is None and decision.code == "settling"
    decision, state = rule.decide(situation(11, noise(50_000), 50), state)
    assert decision.batch_size == 200 and "1581; within the limits, 200" in decision.reason


def test_no_size_is_chosen_further_than_twice_from_those_timed() -> None:
    now = situation(0, noise(1e9), 1000.0)
    timed = replace(step_time(1000.0), largest=300)
    decision, _ = SweetSpot().decide(replace(now, step_time=timed), SweetSpotState(32))
    assert decision.batch_size == 600


def test_a_run_of_so_many_epochs_keeps_its_steps() -> None:
    """1,000,000 samples in all leave 200 steps at 5,000; the bounds in samples come first."""
    sizes = {}
    for rule in (SweetSpot(max_fraction=1.0), SweetSpot(max_fraction=1.0, least_steps=1000), SweetSpot(min_size=6000)):
        for total in (None, 1_000_000):
            now = replace(situation(0, noise(1e5), 5000), total_samples=total)
            decision, _ = rule.decide(now, SweetSpotState(32))
            sizes[rule, total] = decision.batch_size
    assert list(sizes.values()) == [16384, 5000, 16384, 1000, 15000, 6000]


def test_limits_by_samples_come_before_limits_by_time() -> None:
    much = situation(0, noise(1e9), 1000.0, train_samples=10_000)
    assert SweetSpot().decide(much, SweetSpotState(32))[0].batch_size == 2500  # a quarter of the data
    assert SweetSpot(max_size=100).decide(much, SweetSpotState(32))[0].batch_size == 100
    little = situation(0, noise(1e-9), 1.0)
    assert SweetSpot().decide(little, SweetSpotState(32))[0].batch_size == 8
    assert SweetSpot(min_size=20).decide(little, SweetSpotState(32))[0].batch_size == 20
    assert SweetSpot().decide(replace(much, train_samples=6), SweetSpotState(32))[0].batch_size == 6
    at_the_limit = SweetSpot(max_size=100).decide(much, SweetSpotState(100))[0]
    assert at_the_limit.batch_size is None and at_the_limit.code == "at-limit"


@settings(max_examples=150, deadline=None)
@given(
    scales=st.lists(st.floats(0, 1e12), min_size=1, max_size=12),
    half=st.floats(1, 1e6),
    train_samples=st.integers(2, 10**7),
    first=st.integers(1, 10**5),
    least=st.integers(1, 200),
    extra=st.none() | st.integers(0, 5000),
    open_above=st.booleans(),
)
def test_never_leaves_its_bounds(
    scales: list[float], half: float, train_samples: int, first: int, least: int, extra: int | None, open_above: bool
) -> None:
    most = None if extra is None else least + extra
    rule = SweetSpot(initial=first, min_size=least, max_size=most, dwell_steps=1)
    decision, state = rule.start(Plan(train_samples=train_samples))
    upper = min(train_samples, max(8, least, train_samples // 4), train_samples if most is None else most)
    lower = min(max(8, least), upper)
    moved = False
    for step, scale in enumerate(scales):
        previous = state.batch_size
        assert decision.batch_size is None or lower <= decision.batch_size <= upper
        estimate = noise(scale, high=math.inf) if open_above else noise(scale)
        decision, state = rule.decide(situation(step, estimate, half, previous, train_samples), state)
        if decision.batch_size is not None:
            assert isinstance(decision.batch_size, int) and state.batch_size == decision.batch_size != previous
            assert not moved or decision.batch_size <= 2 * previous
            moved = True


@pytest.mark.parametrize(
    "values",
    [
        {"initial": 0},
        {"min_size": 0},
        {"min_size": 2.0},
        {"min_size": 10, "max_size": 9},
        {"floor": 0},
        {"floor": 5},
        {"max_fraction": 0},
        {"max_fraction": 1.1},
        {"change": 0.9},
        {"dwell_steps": 0},
        {"ceiling": math.inf},
    ],
)
def test_refuses_impossible_settings(values: dict[str, object]) -> None:
    with pytest.raises(InputError, match="SweetSpot"):
        SweetSpot(**values)  # type: ignore[arg-type]
