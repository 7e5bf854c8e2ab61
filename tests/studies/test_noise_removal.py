"""Noise removal: the simulated step is least mean squares, the recursion its mean; what the verdicts follow from."""

from itertools import pairwise

import numpy as np
import pytest

from rightbatch import InputError
from rightbatch.studies import NoiseRemoval, Subject
from rightbatch.studies.noise_removal import _near, _slope


def test_the_recursion_is_the_mean_of_least_mean_squares() -> None:
    """Drawn sample by sample, batches of 4: v² has a deviation near its mean, 40,000 replicas tell it to 1 %."""
    small = NoiseRemoval(rate=0.2, presentations=20, fixed=4)
    presented, expected = small.theory("constant, batch 4")
    random = np.random.default_rng(0)
    v = np.full(40_000, small.distance)
    for _ in range(5):
        x, noise = random.standard_normal((2, 4, len(v)))
        v = v - 0.2 * np.mean(x * (v * x - noise), 0)
    assert presented == [4, 8, 12, 16, 20]
    assert expected[-1] == pytest.approx(float(np.mean(v * v)), rel=0.03)


def test_the_simulation_follows_the_recursion() -> None:
    """20,000 replicas tell the mean of v² to about 1 %; four such errors."""
    small = NoiseRemoval(rate=0.2, presentations=300, fixed=8, replicas=20_000, seeds=1)
    for trial in small.trials(small.classic):
        run = small.run(small.classic, trial)
        presented, expected = small.theory(trial.settings["schedule"])
        there = [expected[presented.index(p)] for p in run["presented"]]
        assert run["error"] == pytest.approx(there, rel=0.05) and run["presented"][-1] == presented[-1]
        assert all(a < b for a, b in pairwise(run["presented"])) and run["steps"] == len(expected)


def test_known_floors_and_the_least_error() -> None:
    """At the floor E v² = μ/(b(2 - μ) - 2μ) from the recursion; annealed and grown, T·E v² is close to 1."""
    plain = NoiseRemoval()
    for b in (1, 32):
        assert plain.theory(f"constant, batch {b}")[1][-1] == pytest.approx(0.1 / (b * 1.9 - 0.2), rel=1e-6)
    for name in ("annealed step", "growing batch"):
        presented, expected = plain.theory(name)
        assert 1 <= presented[-1] * expected[-1] < 1.1
        assert _slope(presented, expected) == pytest.approx(-1, abs=0.05)


def test_slopes_and_verdicts() -> None:
    assert _slope([1, 10, 100, 1000], [1.0, 1.0, 0.01, 0.0001]) == pytest.approx(-2)
    around = ([-1.01, -1.0, -0.99], [-2.0, -2.1, -1.9], [-1.5, -1.0, -0.5], [-1.0])
    assert [_near(slopes, -1.0) for slopes in around] == ["agrees", "differs", "cannot tell", "cannot tell"]


def test_findings_with_few_and_with_missing_trials() -> None:
    small = NoiseRemoval(presentations=3000, replicas=400, seeds=3)
    trials = small.trials(small.classic)
    results = {t.key: small.run(small.classic, t) for t in trials if t.settings["schedule"] == "growing batch"}
    section = small.section(small.classic, results)
    assert len(section.rows) == 1 and len(section.findings) == 1 and len(section.drawings) == 1
    first = dict([next(iter(results.items()))])
    assert small.section(small.classic, first).findings[0].verdict == "cannot tell"


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="takes no data"):
        NoiseRemoval().trials(Subject("digits", "mlp"))
    with pytest.raises(InputError, match="rate"):
        NoiseRemoval(rate=0.9).trials(NoiseRemoval().classic)
