"""The batch size from the length of the run, noise and speed."""

from dataclasses import replace

import pytest

from rightbatch.decision import Plan, StepContext
from rightbatch.measurements import NoiseEstimate, StandardErrors, StepTime
from rightbatch.rules.batch_size import Horizon
from rightbatch.rules.batch_size.horizon import HorizonState


def step_time(half: float, per_sample_s: float = 1e-3) -> StepTime:
    return StepTime(half * per_sample_s, per_sample_s, half, 0.1 * half, 6, 4, 1024)


def context(half: float, epochs: int | None = None, noise: float | None = None, n: int = 100_000) -> StepContext:
    total = None if epochs is None else epochs * n
    estimate = (
        None
        if noise is None
        else NoiseEstimate(noise, 1.0, noise, noise / 2, noise * 2, StandardErrors(0.1, 0.1, 0.1), 9)
    )
    return StepContext(
        9, 0, 64, n, 1.0, 1.0, 0.1, noise=estimate, step_time=step_time(half), wanted=64, total_samples=total
    )


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (context(200, epochs=5, n=10_000), 50),  # 1,000 steps ask for 50, less than n½
        (context(40, epochs=5), 40),  # the noise is not known: n½
        (context(40, epochs=5, noise=1000), 200),  # the sweet spot
        (context(40, epochs=5, noise=100_000), 500),  # its sweet spot of 2,000 would leave 250 steps
        (context(40, epochs=5, noise=4), 40),  # little noise: n½
        (context(2, epochs=1, n=5000), 16),  # the least
        (context(500, epochs=100, n=200), 20),  # B_steps
        (context(500, epochs=100, n=100), 12),  # an eighth of the data
        (context(40), 40),  # no horizon
    ],
)
def test_known_answers(now: StepContext, expected: int) -> None:
    decision, state = Horizon().decide(now, HorizonState(64))
    assert state.batch_size == (decision.batch_size or 64) == expected


def test_a_time_limit_leaves_the_steps_too() -> None:
    """20 s are 1,000 steps of 20 ms: 4 ms fixed, and 16 samples of 1 ms each."""
    now = replace(context(4, noise=1e6), total_seconds=20.0)
    decision, _ = Horizon().decide(now, HorizonState(64))
    assert decision.batch_size == 16 and decision.code == "horizon"
    decision, _ = Horizon().decide(replace(now, total_seconds=200.0), HorizonState(64))
    assert decision.batch_size == 196
    decision, _ = Horizon().decide(replace(now, step_time=step_time(300), total_seconds=20.0), HorizonState(64))
    assert decision.batch_size == 150  # smaller steps are hardly faster


def test_the_first_batch() -> None:
    plan = Plan(10_000)
    assert Horizon().start(replace(plan, total_samples=40_000))[0].batch_size == 40
    assert Horizon().start(replace(plan, total_samples=4_000_000))[0].batch_size == 64
    assert Horizon().start(replace(plan, initial_batch_size=128))[0].batch_size == 128
    assert Horizon().start(Plan(100, total_samples=1_000_000))[0].batch_size == 12


def test_it_holds_once_timed() -> None:
    now = context(40, epochs=5, noise=1000)
    decision, state = Horizon().decide(now, HorizonState(180, timed=True))
    assert decision.code == "held" and state.batch_size == 180
    decision, state = Horizon().decide(now, HorizonState(100, settled_until_step=10, timed=True))
    assert decision.code == "settling"
    decision, state = Horizon().decide(replace(now, step_time=None), HorizonState(64))
    assert decision.code == "not-timed"
