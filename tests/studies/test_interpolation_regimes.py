"""Interpolation: steps against their exact expectation, known bends, the claims on made results, small studies."""

import io
import math
from pathlib import Path

import numpy as np
import pytest

from rightbatch import InputError
from rightbatch.probing import feature_spectrum
from rightbatch.rules.spectrum import Spectrum
from rightbatch.studies import Subject, study
from rightbatch.studies.experiment import Result
from rightbatch.studies.interpolation_regimes.design import InterpolationRegimes
from rightbatch.studies.interpolation_regimes.problems import (
    FULL,
    best_rate,
    gone_at_least,
    kernel_features,
    one_step,
    principal_features,
    spread_features,
    steps_until,
)
from rightbatch.studies.interpolation_regimes.results import bend, fitted

TINY = InterpolationRegimes(
    sizes=(1, 2, 4, 8, FULL),
    spectra=((4, 1.0),),
    samples=60,
    kernel_samples=(10, 20),
    accuracy=0.05,
    replicas=16,
    draws=200,
    most_steps=2000,
    network_sizes=(4, 16, FULL),
    network_samples=32,
    network_accuracy=0.3,
    seeds=1,
)


def expected_steps(x: np.ndarray, m: int, rate: float, accuracy: float) -> float:
    """Steps by the recursion of the second moments P of the error, E P' from the pairs of a batch, in float64."""
    n, d = x.shape
    mean, p, left, step = x.T @ x / n, np.eye(d) / d, 1.0, 0
    while True:
        squares = np.einsum("ni,nj,n->ij", x, x, np.einsum("ni,ij,nj->n", x, p, x)) / n
        square = squares / m + (m - 1) / m * mean @ p @ mean
        p = p - rate * (mean @ p + p @ mean) + rate**2 * square
        step, before, left = step + 1, left, float(np.trace(p))
        if left <= accuracy:
            return step - 1 + math.log(before / accuracy) / math.log(before / left)


@pytest.mark.parametrize("size", [1, 3, 30])
def test_steps_are_those_of_the_exact_expectation(size: int) -> None:
    """One sample, samples looked up, and counts: three ways to take a step."""
    x = spread_features(40, 4, 1.0, seed=0)
    rate = best_rate(feature_spectrum(x), size)
    # A mean over 4000 replicas, whose errors scatter by little more than their mean: some 3 % of an error, and 1 % of
    # the steps until it has fallen twentyfold.
    found = steps_until(x, size, rate, 0.05, math.inf, 4000, seed=1)
    assert found == pytest.approx(expected_steps(x, size, rate, 0.05), rel=0.04)


def test_gradient_descent_is_exact() -> None:
    x = spread_features(40, 4, 1.0, seed=0)
    spectrum = feature_spectrum(x)
    rate = best_rate(spectrum, FULL)
    values = np.linalg.eigvalsh(x.T @ x / len(x))
    steps = next(t for t in range(1000) if np.mean((1 - rate * values) ** (2 * t)) <= 0.01)
    assert steps - 1 < steps_until(x, FULL, rate, 0.01, math.inf, 3, seed=0) <= steps
    assert steps_until(x, FULL, rate, 0.01, steps - 1, 3, seed=0) == math.inf
    assert steps_until(x, FULL, 4 * rate, 0.01, math.inf, 3, seed=0) == math.inf  # diverges
    assert one_step(x, FULL, rate, 1, 0) == pytest.approx((gone_at_least(spectrum, FULL, rate), rate))


@pytest.mark.parametrize("size", [1, 4, 40])
def test_one_step_on_batches_really_drawn_is_what_theory_says(size: int) -> None:
    x = spread_features(300, 5, 1.0, seed=2)
    spectrum = feature_spectrum(x)
    gone, rate = one_step(x, size, spectrum.step(size), 20_000, seed=3)
    # What a batch removes scatters by about its mean times sqrt(2/m): 1 % over 20,000 of one.
    assert gone == pytest.approx(gone_at_least(spectrum, size, spectrum.step(size)), rel=0.04)
    assert rate == pytest.approx(spectrum.step(size), rel=0.02)


def test_features_have_the_inner_products_of_their_kernel() -> None:
    x = np.random.default_rng(4).standard_normal((12, 3))
    distances = np.linalg.norm(x[:, None] - x[None], axis=2)
    median = np.median(distances[np.triu_indices(12, 1)])
    features = kernel_features(x, 0.5)
    np.testing.assert_allclose(features @ features.T, np.exp(-2 * distances / median), atol=1e-10)
    wide = np.random.default_rng(5).standard_normal((200, 4)) * np.array([10.0, 2.0, 1.5, 0.1])
    assert principal_features(wide).shape == (200, 3)  # the last direction has less than a hundredth
    assert feature_spectrum(principal_features(wide)).beta == pytest.approx(1)
    with pytest.raises(InputError, match="median distance"):
        kernel_features(np.ones((5, 2)), 0.5)
    with pytest.raises(InputError, match="one direction"):
        principal_features(np.ones((5, 2)))


@pytest.mark.parametrize("critical", [3.0, 7.4, 21.0])
def test_bends_of_the_theory_are_found(critical: float) -> None:
    c = critical - 1
    sizes = (1, 2, 4, 8, 16, 32, 64, 128)
    spectrum = Spectrum(1.0, 1 / c, 1e-6)
    assert bend({m: spectrum.step(m) for m in sizes}) == pytest.approx(spectrum.critical_samples, rel=1e-3)
    steps = {m: 7.0 / -math.log(spectrum.contraction(m, spectrum.step(m))) for m in sizes}
    assert fitted(steps) == pytest.approx(critical, rel=0.02)
    assert math.isnan(bend({1: 1.0, 2: 2.0})) and math.isnan(fitted({1: 4.0, 2: 2.0}))


def made(design: InterpolationRegimes, subject: Subject) -> dict[str, Result]:
    """Results as the bound on one step would have them, with λ_k falling as 1/n, the network saturated from 16 on."""
    results = {}
    for trial in design.trials(subject):
        name, n, size = (trial.settings[key] for key in ("problem", "samples", "size"))
        spectrum = Spectrum(1.0, 0.2, 0.01 / n)
        rate = best_rate(spectrum, size)
        gone = gone_at_least(spectrum, size, rate)
        found = {"best_rate": rate, "steps": 7 / -math.log1p(-gone)}
        if name == "network":
            found = {"best_rate": 0.1, "enclosed": True, "steps": 640 / min(size or n, 16)}
        else:
            found |= {"critical": spectrum.critical_samples, "rate": rate, "bound": gone, "gone": gone}
            found |= {"step_rate": rate, "steps_at_rate": found["steps"]}
        results[trial.key] = {**trial.settings, **found}
    return results


def test_the_claims_agree_where_theory_is_exact() -> None:
    design = InterpolationRegimes(seeds=3, sizes=(1, 2, 4, 8, 16, 32, 64, 128, FULL), network_sizes=(1, 4, 16, 64))
    results = made(design, design.classic)
    section = design.section(design.classic, results)
    verdicts = {finding.claim: finding.verdict for finding in section.findings}
    assert len(verdicts) == 14
    # The theory itself is not nearly at gradient descent at m*: four times the steps, less what the next size saves.
    apart = [claim for claim, verdict in verdicts.items() if verdict != "agrees"]
    assert len(apart) == 1 and apart[0].startswith("a step with m*") and verdicts[apart[0]] == "differs"
    assert all(len(row) == len(section.head) for row in section.rows)
    one = {key: result for key, result in results.items() if result["seed"] == 0}
    for count in (1, len(one)):
        few = design.section(design.classic, dict(list(one.items())[:count]))
        linear = [f.verdict for f in few.findings if "up to m*" not in f.claim]  # these pool the problems of a seed
        assert set(linear) == {"cannot tell"} and len(few.drawings) == 1


def test_a_small_study(tmp_path: Path) -> None:
    done = study(TINY, Subject("blobs", "mlp"), folder=tmp_path, processes=0, progress=io.StringIO())
    section = TINY.section(done.subject, done.results)
    assert len(done.results) == 3 * 5 + 3 and [row[0] for row in section.rows][-1] == "network"
    assert (tmp_path / "study.html").stat().st_size > 10_000


def test_a_linear_model_is_studied_on_its_features_and_has_no_network() -> None:
    problems = {trial.settings["problem"] for trial in TINY.trials(Subject("digits", "linear"))}
    assert problems == {"4 features, decay 1", "kernel", "features"}
    trial = next(t for t in TINY.trials(Subject("digits", "linear")) if t.settings["problem"] == "features")
    assert TINY.run(Subject("digits", "linear"), trial)["steps"] > 1


def test_a_network_that_does_not_fit_says_so() -> None:
    design = InterpolationRegimes(**{**vars(TINY), "network_accuracy": 1e-9, "most_steps": 20})
    subject = Subject("blobs", "mlp")
    trial = next(t for t in design.trials(subject) if t.settings["problem"] == "network")
    result = design.run(subject, trial)
    assert result["steps"] is None
    section = design.section(subject, {trial.key: result})
    assert any("did not arrive" in text for text in section.paragraphs)


@pytest.mark.parametrize(
    ("design", "words"),
    [
        (InterpolationRegimes(seeds=0), "seeds"),
        (InterpolationRegimes(accuracy=1.0), "accuracy"),
        (InterpolationRegimes(sizes=(-1,)), "batch size"),
        (InterpolationRegimes(kernel_samples=(5000,)), "give fewer"),
        (InterpolationRegimes(spectra=((1, 0.0),)), "dimensions"),
    ],
)
def test_designs_out_of_range_are_refused(design: InterpolationRegimes, words: str) -> None:
    with pytest.raises(InputError, match=words):
        design.trials(design.classic)
