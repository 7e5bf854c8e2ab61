"""The simulation against closed forms, and the measurement on this machine."""

import math

import pytest

from rightbatch import cli
from rightbatch.rules.batch_size import Fixed
from rightbatch.scaling import Fleet, measure, simulate

SMALL = Fleet(progress=300.0, train_samples=50_000)


def test_a_fixed_batch_takes_what_its_formula_says() -> None:
    """The simulated steps add up to t(B)·∫(1 + B_noise/B), within 1 %: epochs end with smaller batches."""
    fleet = Fleet(jitter=0.0, progress=300.0, train_samples=50_000)
    run = simulate(4, fleet, Fixed(1024), fixed=[1024])
    assert run.seconds == pytest.approx(run.fixed_s[1024], rel=0.01)
    assert run.steps == pytest.approx(run.seconds / fleet.seconds(1024, 4), rel=0.01)


def test_constant_noise_has_the_sweet_spot_of_the_formula() -> None:
    """B* = sqrt(B_noise·n½), n½ = t0/t1·W: with 2 % scatter of times and 7 % of noise the rule is within 1.25·1.1."""
    fleet = Fleet(first_noise_scale=2000.0, last_noise_scale=2000.0, jitter=0.02, progress=300.0, train_samples=50_000)
    for processes in (1, 16):
        spot = math.sqrt(2000 * (fleet.seconds(0, processes) / fleet.per_sample_s * processes))
        assert simulate(processes, fleet).late == pytest.approx(spot, rel=0.375)


def test_the_sweet_spot_moves_with_processes_and_noise_and_pays() -> None:
    """Batches grow with both; the rule is never far behind the fixed batch that was best, which nobody knew before."""
    runs = [simulate(processes, SMALL, fixed=[256, 32 * processes]) for processes in (4, 64, 512)]
    assert [run.late for run in runs] == sorted({run.late for run in runs})
    assert all(run.late > 2 * run.early for run in runs[:2])
    assert all(run.best_fixed_s / run.seconds > 0.9 for run in runs)
    assert [run.goodput(256) > floor for run, floor in zip(runs, (1.2, 4, 6), strict=True)] == [True] * 3
    assert all("exactly once" in run.ledger for run in runs)


def test_the_same_seed_is_the_same_run() -> None:
    assert simulate(16, SMALL, seed=3) == simulate(16, SMALL, seed=3) != simulate(16, SMALL, seed=4)


@pytest.mark.nightly
def test_two_processes_here_decide_alike() -> None:
    found = measure(2, seconds=1.0)
    assert found.agree and found.steps > 10 and found.samples_per_s > 0


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "scale", "--processes", "1", "--simulate", "4", "--seconds", "0.2"]) == 0
    said = capsys.readouterr().out
    assert "its own" in said and "every sample exactly once" in said
