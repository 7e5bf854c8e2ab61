"""The noise scale along the way: known where the shares of signal are known, and no trace of the training."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch

import rightbatch
from rightbatch.data import quadratic
from rightbatch.fitting.batch_loss import PairLoss
from rightbatch.fitting.units import UnitLoss, mean_squared_error
from rightbatch.probing.budget import TimeBudget
from rightbatch.probing.steps import ProbeSteps
from rightbatch.probing.timing_sweep import TimingSweep
from rightbatch.probing.training_noise import HeldOutLook, noise_in_training, summary

Make = Callable[..., Any]
START = HeldOutLook(0, 0.0, 0.0, 1.0)


def along(scales: list[float], steps: list[int], losses: list[float], b: int) -> list[HeldOutLook]:
    """Stretches of the way whose noise scales are known: s = 1 and E‖g_B‖² = 1 + B_k/b for every step."""
    stretches = zip(scales, steps, losses, strict=True)
    return [START, *(HeldOutLook(n, n, n * (1 + scale / b), loss) for scale, n, loss in stretches)]


def test_a_constant_noise_scale_is_found_whatever_the_batch() -> None:
    for b in (8, 64, 512):
        found = summary(along([50.0] * 3, [5, 20, 30], [0.6, 0.3, 0.0], b), b, True)
        assert found is not None and found.noise_scale == pytest.approx(50) and found.steps == 55


def test_a_rising_noise_scale_gives_the_steps_of_the_whole_way() -> None:
    """With 10 full steps at each of the scales 10 and 1000, S(b) = 10 (1 + 10/b) + 10 (1 + 1000/b) = 20 (1 + 505/b)."""
    for b in (16, 128):
        taken = [round(10 * (1 + scale / b) * 64) for scale in (10, 1000)]  # in 64ths of a step
        found = summary(along([10.0, 1000.0], taken, [0.5, 0.0], b), b, True)
        assert found is not None and found.noise_scale == pytest.approx(505, rel=1e-3)


def test_the_way_ends_near_the_least_loss_and_negative_signals_are_no_progress() -> None:
    looks = along([50.0, 50.0, 1e6], [10, 10, 1000], [0.3, 0.01, 0.0], 32)
    found = summary(looks, 32, False)
    assert found is not None and found.steps == 20 and found.noise_scale == pytest.approx(50) and not found.arrived
    lost = [START, HeldOutLook(10, 10.0, 20.0, 0.5), HeldOutLook(10, -3.0, 20.0, 0.0)]
    found = summary(lost, 32, True)
    assert found is not None and found.noise_scale == pytest.approx(32 * 3)  # a quarter of the steps' worth of progress
    assert summary([START, HeldOutLook(10, -3.0, 20.0, 0.0)], 32, True) is None
    assert summary([START], 32, True) is None


def test_training_leaves_the_probe_where_it_was() -> None:
    problem = quadratic(800, features=6, distance=3.0)
    model = problem.model().train()
    steps = ProbeSteps(model, problem.source, PairLoss(UnitLoss(mean_squared_error)), 0, None)
    ticks = iter(range(10**6))
    budget = TimeBudget(1e9, lambda: float(next(ticks)))
    curve = TimingSweep(steps, budget, 0)
    curve.sweep(0.4)
    curve.repeat(curve.warmed_up, 0.4, 1)
    steps.begin_epoch(3)
    before = steps.averaging.average()
    found = noise_in_training(steps, curve, 64, budget, 1.0, seed=0)
    assert found is not None and found.arrived and found.samples == 64
    # The noise scale at the start is a lower bound here: it only grows on the way down.
    assert found.noise_scale > problem.sample.noise_scale(torch.zeros(6))
    assert torch.equal(steps.averaging.average(), before)
    assert all(p.grad is None for p in model.parameters())
    assert steps.train_samples == 800 and steps.source is problem.source


def test_the_advice_lies_between_start_and_way(bench: Make) -> None:
    there = bench(n=1024, distance=3.0)
    advice = there.probe()
    assert advice.training_noise_scale is not None and advice.training_noise_scale > advice.noise_scale
    spots = [(scale * 100) ** 0.5 for scale in (advice.noise_scale, advice.training_noise_scale)]
    assert spots[0] < advice.batch_size < spots[1]
    assert "during training" in str(advice) and "trial steps" in str(advice)
    text = str(advice)
    places = [text.index(words) for words in ("noise scale", "during training", "half performance", "sweet spot")]
    assert all(a < b for a, b in pairwise(places))


def test_few_samples_are_not_divided() -> None:
    x, y = torch.randn(40, 3), torch.randint(0, 2, (40,))
    advice = rightbatch.probe(torch.nn.Linear(3, 2), (x, y), seconds=60)
    assert advice.training_noise_scale is None and "initial parameters" in str(advice.notes)
