"""The clock on a machine whose speed changes while the run goes on."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from rightbatch import AutoBatch
from rightbatch.loop.timing.step_timer import COMPARE_EVERY_STEPS, LEAST_COMPARED, SWEEP_AGAIN_STEP, StepTimer
from rightbatch.measurements import StepTime
from rightbatch.rules.batch_size import SweetSpot

FIXED_S, EACH_S, UPDATE_S = 1e-3, 1e-5, 5e-4
HALF = (FIXED_S + UPDATE_S) / EACH_S


def ready() -> StepTimer:
    """A clock that has climbed a ladder up to 512 samples and knows the seconds of an update."""
    clock = StepTimer()
    clock.start_sweep(10**6, 512)
    size = clock.sweep_on(0.0)
    while size is not None:
        size = clock.sweep_on(FIXED_S + EACH_S * size)
    for _ in range(3):
        clock.add(64, FIXED_S + UPDATE_S + EACH_S * 64, UPDATE_S)
    return clock


def run(clock: StepTimer, steps: int, batch: int, load: float, each_s: float = EACH_S) -> None:
    """Take steps on a machine slowed down by `load`."""
    for step in range(steps):
        sizes = clock.cut(step, batch)
        if sizes is None:
            clock.add(batch, load * (FIXED_S + UPDATE_S + each_s * batch), load * UPDATE_S)
        else:
            clock.compare([(b, load * (FIXED_S + each_s * b)) for b in sizes], load * UPDATE_S)


def test_a_slower_machine_does_not_change_the_shape() -> None:
    """Eight times slower, at one size only: an ordinary fit of all times would put n½ at a few samples."""
    clock = ready()
    run(clock, 200, 300, load=8.0)
    fit, present = clock.fit(), clock.present()
    assert fit is not None and present is not None
    assert fit.half_performance == pytest.approx(HALF, rel=1e-6)
    assert present.seconds(300) == pytest.approx(8 * (FIXED_S + UPDATE_S + EACH_S * 300), rel=1e-6)
    assert present.half_performance == fit.half_performance


def test_a_change_of_shape_is_followed() -> None:
    """Samples become four times dearer while the fixed cost stays: n½ goes towards a quarter."""
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
    assert StepTimer().cut(due[0], 256) is None, "without a ladder nothing is compared"


# A ladder that was disturbed.


def climbed(clock: StepTimer, slower: Callable[[int], float]) -> None:
    """Climb a ladder while other work slows the machine down, then learn what an update takes."""
    clock.start_sweep(10**6, 512)
    size = clock.sweep_on(0.0)
    rungs = 0
    while size is not None:
        size, rungs = clock.sweep_on(slower(rungs) * (FIXED_S + EACH_S * size)), rungs + 1
    for _ in range(3):
        clock.add(16, FIXED_S + UPDATE_S + EACH_S * 16, UPDATE_S)


def disturbed(rung: int) -> float:
    """Slow while the smallest sizes are timed, so that larger ones seem to take less."""
    return 4.0 if rung < 20 else 1.0


def uncertain(fit: StepTime) -> bool:
    return fit.standard_error > 0.5 * fit.half_performance


def undisturbed(rung: int) -> float:
    return 1.0


def test_a_disturbed_ladder_is_climbed_once_more() -> None:
    clock = StepTimer()
    assert clock.wants_sweep(0) and not clock.wants_sweep(1)
    climbed(clock, disturbed)
    first = clock.fit()
    assert first is not None and first.half_performance < HALF / 5 and uncertain(first)
    run(clock, SWEEP_AGAIN_STEP, 16, load=1.0)  # too small to be compared: nothing mends the curve
    assert clock.fit() == first
    assert not clock.wants_sweep(SWEEP_AGAIN_STEP - 1) and clock.wants_sweep(SWEEP_AGAIN_STEP)
    climbed(clock, undisturbed)
    fit = clock.fit()
    assert fit is not None and fit.half_performance == pytest.approx(HALF, rel=1e-6)
    present = clock.present()
    assert present is not None and present.fixed_s == pytest.approx(fit.fixed_s, rel=1e-6)
    assert not clock.wants_sweep(SWEEP_AGAIN_STEP + 1)


def test_of_two_disturbed_ladders_the_less_uncertain_is_kept_and_there_is_no_third() -> None:
    clock = StepTimer()
    climbed(clock, disturbed)
    first = clock.fit()
    climbed(clock, lambda rung: 40.0 if rung < 14 else 1.0)
    assert clock.fit() == first
    assert not any(clock.wants_sweep(step) for step in range(1, 500))


def test_a_sound_ladder_is_climbed_once() -> None:
    assert not any(ready().wants_sweep(step) for step in range(1, 500))


def test_a_second_ladder_left_in_the_middle_is_begun_again() -> None:
    clock, again = StepTimer(), StepTimer()
    climbed(clock, disturbed)
    clock.start_sweep(10**6, 512)
    clock.sweep_on(0.0)
    clock.abandon_sweep()
    assert clock.wants_sweep(SWEEP_AGAIN_STEP)
    again.load_state_dict(clock.state_dict())
    assert again.wants_sweep(SWEEP_AGAIN_STEP)


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_run_disturbed_at_its_start_finds_its_batch(epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is a fake: a pass on b samples takes 1 ms + b/30 ms, n½ is 30. In the first batch some take longer.

    The ladder is climbed again in the first epoch, where a quarter of it is left after step 64, else not at all.
    """
    now_s = [0.0]
    monkeypatch.setattr("rightbatch.loop.run_state.perf_counter", lambda: now_s[0])
    x = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0))
    model = nn.Linear(3, 1)
    auto = AutoBatch(model, None, (x, x.sum(1, keepdim=True)), SweetSpot(initial=16, max_size=16), 0.01, epochs=epochs)
    sizes: list[int] = []
    for passes, (a, b) in enumerate(auto):
        slow = disturbed(passes) if auto.steps == 0 else 1.0
        now_s[0] += slow * (1e-3 + len(a) * 1e-3 / 30)
        auto.backward(nn.functional.mse_loss(model(a), b))
        if auto.step():
            sizes.append(auto.last["batch_size"])
            fit = auto.timer.fit()
            if auto.steps == SWEEP_AGAIN_STEP:
                assert fit is not None and uncertain(fit)
    assert [size > 100 for size in sizes].count(True) == 2 and sizes[SWEEP_AGAIN_STEP] > 100
    assert fit is not None and fit.half_performance == pytest.approx(30, rel=1e-6)
    assert auto.samples == epochs * 2000
