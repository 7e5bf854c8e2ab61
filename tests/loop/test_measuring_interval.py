"""When to measure, stepped by hand: no clock is read."""

import math
import random
from collections.abc import Callable

import pytest

from rightbatch.loop.timing.measuring_interval import ASSUMED_OVERHEAD, ENOUGH_PAIRS, PAIRS, MeasuringInterval

Seconds = Callable[[int, int], float]


def run(
    interval: MeasuringInterval,
    steps: int,
    plain_s: Seconds,
    overhead: Callable[[int], float],
    sizes: Callable[[int], int] = lambda _: 64,
    start: int = 0,
    stall_s: Callable[[int], float] = lambda _: 0.0,
) -> tuple[list[int], float, float]:
    """Take steps; return which were measured, the seconds that added and all seconds."""
    measured, added_s, all_s = [], 0.0, 0.0
    for step in range(start, start + steps):
        samples = sizes(step)
        work_s = plain_s(step, samples)
        seconds = work_s + stall_s(step)
        if due := interval.due(step):
            measured.append(step)
            added_s += work_s * overhead(samples)
            seconds += work_s * overhead(samples)
        interval.add(step, samples, seconds, due)
        all_s += seconds
    return measured, added_s, all_s


def steady(step: int, samples: int) -> float:
    return 1e-3 + 1e-5 * samples


@pytest.mark.parametrize("every", [1, 2, 5, 8])
def test_fixed_steps_whatever_they_cost(every: int) -> None:
    measured, _, _ = run(MeasuringInterval(0.03, every), 40, steady, lambda _: 3.0)
    assert measured == [step for step in range(40) if (step - 1) % every == 0]


@pytest.mark.parametrize(
    ("overhead", "budget", "steps"),
    [(0.299, 0.03, 10), (0.31, 0.03, 11), (0.1, 0.03, 4), (0.01, 0.03, 2), (0.0, 0.03, 2), (1.0, 0.1, 10), (2.0, 1, 2)],
)
def test_the_interval_is_the_overhead_over_the_budget(overhead: float, budget: float, steps: int) -> None:
    interval = MeasuringInterval(budget)
    measured, _, _ = run(interval, 1000, steady, lambda _: overhead)
    assert interval.overhead == pytest.approx(overhead, abs=1e-9)
    assert interval.steps == steps == measured[-1] - measured[-2]
    assert interval.cost_s == pytest.approx(overhead * steady(0, 64), abs=1e-12)


def test_before_the_overhead_is_known() -> None:
    """The first measurement comes at once and sets things up, however long it takes; 25 % is assumed."""
    interval = MeasuringInterval(0.03)
    assumed = math.ceil(ASSUMED_OVERHEAD / 0.03)
    measured, _, _ = run(interval, 4 * assumed, steady, lambda _: 0.02)
    assert measured[:4] == [1, 1 + assumed, 1 + 2 * assumed, 1 + 3 * assumed]
    assert math.isnan(MeasuringInterval(0.03).cost_s)
    slow_start = MeasuringInterval(0.03)
    slow_start.add(0, 64, steady(0, 64), False)
    slow_start.add(1, 64, 100.0, True)
    for step in range(2, 1 + assumed):
        assert not slow_start.due(step)
        slow_start.add(step, 64, steady(step, 64), False)
    assert slow_start.due(1 + assumed) and slow_start.overhead == ASSUMED_OVERHEAD


def test_two_dear_measurements_are_enough_to_wait_longer() -> None:
    interval = MeasuringInterval(0.03)
    measured, _, _ = run(interval, 200, steady, lambda _: 0.9)
    assert measured[:5] == [1, 10, 19, 49, 79]


def test_a_step_not_measured_stays_due() -> None:
    interval = MeasuringInterval(0.03)
    for step in range(1, 6):
        assert interval.due(step)
        interval.add(step, 64, 1e-3, False)
    interval.add(6, 64, 1e-3, True)
    assert not interval.due(7)


def test_only_neighbours_of_about_the_same_size_are_compared() -> None:
    """Sizes that come and go (the rest of an epoch) tell nothing; sizes that drift are compared by the sample."""
    interval = MeasuringInterval(0.03)
    run(interval, 300, steady, lambda _: 0.2, sizes=lambda step: 64 if step % 10 else 7)
    assert interval.overhead == pytest.approx(0.2)
    drifting = MeasuringInterval(0.03)
    run(drifting, 300, steady, lambda _: 0.2, sizes=lambda step: 64 + step)
    assert drifting.overhead == pytest.approx(0.2, rel=0.05)
    leaping = MeasuringInterval(0.03)
    run(leaping, 300, steady, lambda _: 0.2, sizes=lambda step: 64 * 2 ** (step % 4))
    assert leaping.overhead == ASSUMED_OVERHEAD


def test_a_batch_that_grows_takes_the_share_along_and_then_its_own() -> None:
    """0.4 at 64, where Python counts, 0.04 at 512."""
    interval = MeasuringInterval(0.03)

    def overhead(samples: int) -> float:
        return 0.4 if samples == 64 else 0.04

    run(interval, 400, steady, overhead)
    assert interval.steps == 14
    measured, _, _ = run(interval, 300, steady, overhead, sizes=lambda _: 512, start=400)
    assert measured[1] - measured[0] == 14
    assert interval.steps == 2


def noisy(seed: int, kind: str) -> Seconds:
    """A shared machine: slow for spells, with jitter, or getting steadily slower."""
    draw = random.Random(seed)
    spell = [1.0]

    def seconds(step: int, samples: int) -> float:
        if kind == "spells" and step % 50 == 0:
            spell[0] = draw.choice([1.0, 1.0, 3.0])
        drift = 1 + step / 500 if kind == "drift" else 1.0
        return steady(step, samples) * spell[0] * drift * math.exp(draw.gauss(0, 0.1))

    return seconds


@pytest.mark.parametrize("overhead", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("kind", ["jitter", "spells", "stalls", "drift"])
def test_the_budget_is_kept(kind: str, overhead: float) -> None:
    """Over 2,000 steps, seeds 0 to 4. The overhead is the median of nine pairs of 10 % jitter each, known to 0.05 at
    any time, and the mean over a run and five of them to 0.01: a tenth is granted. Nor is the budget left lying about:
    a third of it is used at least."""
    shares = []
    for seed in range(5):
        draw = random.Random(seed)
        stall_s = [0.02 if kind == "stalls" and draw.random() < 0.05 else 0.0 for _ in range(2000)]
        _, added_s, all_s = run(
            MeasuringInterval(0.03), 2000, noisy(seed, kind), lambda _: overhead, stall_s=stall_s.__getitem__
        )
        shares.append(added_s / all_s)
    assert 0.03 / 3 <= sum(shares) / 5 <= 1.1 * 0.03


def test_another_method_is_timed_anew() -> None:
    interval = MeasuringInterval(0.03)
    run(interval, 400, steady, lambda _: 1.0)
    interval.forget()
    assert interval.due(400) and interval.overhead == ASSUMED_OVERHEAD
    run(interval, 400, steady, lambda _: 0.1, start=400)
    assert interval.overhead == pytest.approx(0.1)


@pytest.mark.parametrize("at", [0, 1, 2, 11, 12, 13, 50])
def test_the_state_goes_on(at: int) -> None:
    interval, again = MeasuringInterval(0.03), MeasuringInterval(0.03)
    run(interval, at, noisy(0, "jitter"), lambda _: 0.3)
    again.load_state_dict(interval.state_dict())
    assert repr(again.state_dict()) == repr(interval.state_dict())  # as text, for nan differs from itself
    results = [run(each, 200, noisy(1, "jitter"), lambda _: 0.3, start=at) for each in (interval, again)]
    assert results[0] == results[1]
    assert len(interval.state_dict()["_overheads"]) <= PAIRS and ENOUGH_PAIRS < PAIRS


def test_the_overhead_is_learned_where_every_batch_has_another_size() -> None:
    """Sizes 10 to 16 in turn, 1 ms a sample, a measured step four times as long: 3 in 3 % is one step in 100."""
    interval, measured = MeasuringInterval(0.03), 0
    for step in range(2000):
        samples, due = 10 + step % 7, interval.due(step)
        interval.add(step, samples, 1e-3 * samples * (4.0 if due else 1.0), due)
        measured += due
    assert interval.overhead == pytest.approx(3.0)
    assert interval.steps == 100 and measured <= 25
