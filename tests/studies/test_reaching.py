"""Reaching a target: a problem whose loss after t steps is known, and what is given up."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rightbatch import InputError
from rightbatch.studies import Subject
from rightbatch.studies.reaching import Target, crossing, reach, reference_target, tuned_reach

BLOBS = Subject("blobs", "linear")


@pytest.fixture
def constant(tmp_path: Path) -> Subject:
    """x = 1 and y = 0 in every sample: w + b shrinks by 1 - 4 rate a step, whatever the batch size."""
    np.savez(tmp_path / "constant.npz", x=np.ones((50, 1), np.float32), y=np.zeros(50, np.float32))
    return Subject(str(tmp_path / "constant.npz"), "linear")


def start(subject: Subject) -> float:
    return sum(p.item() for p in subject.network(0).parameters()) ** 2


@pytest.mark.parametrize("size", [4, 100])
def test_steps_to_a_target_are_known(constant: Subject, size: int) -> None:
    run = reach(constant, size, 0.01, 0, start(constant) / 50, 10_000 * size)
    exact = math.log(50) / (-2 * math.log(0.96))
    # The loss is taken as linear between looks 3.5 % apart, on which it is slightly convex.
    assert run.steps == pytest.approx(exact, rel=2e-3)
    assert run.samples == run.steps * size and run.seconds == run.steps * run.step_s


def test_what_does_not_arrive(constant: Subject) -> None:
    target = start(constant) / 50
    for rate, most, given_up in ((0.01, 40, False), (0.6, 1_000, True), (1e-6, 1_000, True)):
        run = reach(constant, 1, rate, 0, target, most)
        assert math.isinf(run.steps) and math.isinf(run.samples) and math.isinf(run.seconds)
        assert math.isnan(run.loss) == given_up and run.step_s > 0
    slow = reach(constant, 1, 1e-6, 0, -math.inf, 200)
    assert math.isinf(slow.steps) and 0.99 * start(constant) < slow.loss < start(constant)


def test_the_crossing_takes_two_looks() -> None:
    looks = [(0, 3.0), (10, 2.0), (20, 0.5), (30, 2.0), (40, 0.0), (50, 1.0)]
    assert [crossing(looks[:count], 1.0) for count in range(6)] == [None] * 6
    assert crossing(looks, 1.0) == pytest.approx(30 * (4 / 3) ** 0.5)
    assert crossing([(0, 0.5), (1, 0.4)], 1.0) == 1.0 and crossing([(0, 3.0), (1, 0.5), (2, 0.4)], 1.0) == 1.0
    assert crossing([(1, 0.5), (2, math.nan)], 1.0) is None


@pytest.mark.parametrize("first", [1e-2, 0.9])
def test_the_best_rate_is_found_from_either_side(constant: Subject, first: float) -> None:
    """Of the rates that halve and double, the one nearest to 1/4 takes the fewest steps."""
    target = Target(start(constant) * 1e-3, first, 8, "SGD")
    run, found = tuned_reach(constant, 8, 0, target, 4_000)
    nearest = min(found.tried, key=lambda rate: abs(1 - 4 * rate))
    assert found.rate == nearest and found.enclosed and found.cost == run.samples == 8 * run.steps
    best = math.log(1e3) / (-2 * math.log(abs(1 - 4 * nearest)))
    assert best - 1 < run.steps < best + 1


def test_a_target_out_of_reach_is_said(constant: Subject) -> None:
    run, found = tuned_reach(constant, 8, 0, Target(start(constant) * 1e-6, 1e-2, 8, "SGD"), 80, tries=3)
    assert math.isinf(run.steps) and math.isnan(found.rate) and not found.enclosed
    assert set(found.tried.values()) == {math.inf}
    # Nothing arrived, but larger rates came nearer.
    assert sorted(found.tried) == pytest.approx([1e-2, 2e-2, 4e-2])


@pytest.mark.parametrize("optimizer", ["SGD", "momentum", "Adam"])
def test_the_reference_can_be_reached_by_others(optimizer: str) -> None:
    target = reference_target(BLOBS, optimizer, samples=960)
    assert target is reference_target(BLOBS, optimizer, samples=960)
    reference_target.cache_clear()
    assert target == reference_target(BLOBS, optimizer, samples=960)
    assert float(f"{target.loss:.3g}") == target.loss
    for size in (8, 64):
        run, _ = tuned_reach(BLOBS, size, 1, target, target.allowed(size))
        assert 1 <= run.steps < math.inf
    assert target.samples <= 960 and target.allowed(8) == target.allowed(32) == target.allowed(64) / 2


def test_dropout_is_repeated_and_the_random_state_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dropping.py").write_text(
        "from torch import nn\n\ndef network(): return nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 3))\n"
    )
    monkeypatch.chdir(tmp_path)
    subject, seen = Subject("blobs", "dropping:network"), []

    def watch(steps: int, model: nn.Module) -> None:
        seen.append(steps)

    state = torch.get_rng_state()
    runs = [reach(subject, 8, 0.1, 3, 1e-9, 2_000, watch=watch) for _ in range(2)]
    assert runs[0].loss == runs[1].loss and torch.equal(state, torch.get_rng_state())
    half = seen[: len(seen) // 2]
    assert half == sorted(set(half)) and half[0] == 0 and half[-1] == 250
    assert all(b <= a * 1.035 + 1 for a, b in pairwise(half))


@pytest.mark.parametrize("wrong", [{"size": 0}, {"rate": 0.0}, {"optimizer": "LBFGS"}])
def test_settings_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    good: dict[str, object] = {"size": 8, "rate": 0.1, "optimizer": "SGD"}
    with pytest.raises(InputError, match=next(iter(wrong))):
        reach(BLOBS, seed=0, target=0.1, most_samples=100, **(good | wrong))  # type: ignore[arg-type]
