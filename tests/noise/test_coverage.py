"""The stated 90 % intervals hold the truth nine times in ten, where the truth is known.

Of 200 intervals a share of 0.9 shows as 0.9 ± 0.021, of 500 as 0.9 ± 0.013. What is asked is 85 to 95 % in truth; the
bounds below allow 2.5 standard deviations more for the sampling. Where the signal is not told from zero one end of
the interval is open and cannot fail: 95 % is then what the other end is made for, and more is no harm.
"""

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rightbatch import measure
from rightbatch.measurements import NO_INTERVALS, Intervals

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def problems() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("coverage_of_intervals", BENCHMARKS / "coverage.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(BENCHMARKS))


def check(problems: ModuleType, population, found: list[Intervals], least: float, most: float) -> None:
    slack = 2.5 * math.sqrt(0.1 * 0.9 / len(found))
    for quantity, coverage in zip(problems.QUANTITIES, problems.covered(population, found), strict=True):
        open_ended = coverage.open > 0.02 or (quantity == "s" and coverage.below < 0.02)
        at_most = 1.0 if open_ended else most + slack
        assert least - slack <= coverage.held <= at_most, (population.name, quantity, coverage)


SPECTRA = {"isotropic": torch.ones(20), "steep": torch.arange(1, 21) ** -2.0, "one": torch.tensor([1.0] + [1e-4] * 19)}


@pytest.mark.parametrize("ratio", [4.0, 0.5, 0.0])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_quadratics(problems: ModuleType, spectrum: str, ratio: float) -> None:
    generator = torch.Generator().manual_seed(0)
    scale = 32 / ratio if ratio else math.inf
    population = problems.gaussian(spectrum, SPECTRA[spectrum].double(), scale, "first", generator)
    for _, found in problems.estimators(population, 32, 200, (10,)):
        check(problems, population, found, 0.85, 0.95)


def test_a_network_with_every_gradient_known(problems: ModuleType) -> None:
    population = next(problems.network(torch.Generator().manual_seed(0), hidden=2, samples=300))
    for _, found in problems.estimators(population, 64, 200, (10,)):
        check(problems, population, found, 0.85, 0.95)


def test_the_problems_state_what_measure_states(problems: ModuleType) -> None:
    model = nn.Linear(5, 3).double()
    x, y = torch.randn(40, 5).double(), torch.randint(0, 3, (40,))
    gradients = problems.per_example_gradients(model, F.cross_entropy, x, y)
    for method, twin in (("per-example", problems.of_one_batch), ("micro-batch", problems.of_micro_batches)):
        found, expected = measure(model, F.cross_entropy, x, y, method=method), twin(gradients)
        assert found.standard_error == pytest.approx(expected.standard_error, rel=1e-8)
        for stated, own in zip(found.intervals, expected.intervals, strict=True):
            assert stated == pytest.approx(own, rel=1e-6)


def test_micro_batches_of_uneven_size_state_about_the_same(problems: ModuleType) -> None:
    # 67 in 8: sizes 9 and 8. 300 batches, seed 0: errors against the spread, known to 1/sqrt(600) = 4 %
    generator = torch.Generator().manual_seed(0)
    population = problems.gaussian("isotropic", torch.ones(20).double(), 67.0, "first", generator)
    found = [problems.of_micro_batches(g) for g in population.draw(300, 67)]
    spread = torch.tensor([m.variance for m in found]).std().item()
    typical = torch.tensor([m.standard_error.variance for m in found]).square().mean().sqrt().item()
    assert typical == pytest.approx(spread, rel=0.15)
    check(problems, population, [m.intervals for m in found], 0.85, 0.95)


def test_two_samples_say_nothing() -> None:
    found = measure(nn.Linear(2, 1), F.mse_loss, torch.randn(2, 2), torch.randn(2, 1))
    assert found.intervals == NO_INTERVALS
    same = measure(nn.Linear(2, 1).double(), F.mse_loss, torch.ones(6, 2).double(), torch.ones(6, 1).double())
    assert same.variance == pytest.approx(0.0, abs=1e-12)  # no noise at all
    assert all(0.0 <= low <= high for low, high in same.intervals)


@pytest.mark.nightly
def test_every_problem(problems: ModuleType, data_dir: Path) -> None:
    """The published table with another seed; what it cannot hold is listed here and said there."""
    generator = torch.Generator().manual_seed(1)
    short: list[str] = []
    for population in problems.populations(generator, 64):
        for estimator, found in problems.estimators(population, 64, 500, (2, 5, 40)):
            coverages = problems.covered(population, found)
            lowest = min(coverage.held for coverage in coverages)
            if lowest < 0.85 - 2.5 * math.sqrt(0.1 * 0.9 / len(found)):
                short.append(f"{population.name}: {estimator} ({lowest:.2f})")
            assert lowest > 0.6, short[-1]
    hard = ("digits, network 64-16-10 after", "one eigenvalue of 50", "eigenvalues k^-2")
    assert all(any(name in line for name in hard) for line in short), short
    assert len(short) <= 15, short
