"""The spectra of least squares, and what the theory of interpolation makes of them, against steps really taken."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rightbatch.decision import Plan, StepContext
from rightbatch.errors import InputError
from rightbatch.probing import feature_spectrum, kernel_spectrum
from rightbatch.rules.batch_size import batch_size_rule
from rightbatch.rules.recipes import Interpolation
from rightbatch.rules.spectrum import Spectrum


def unit_features(n: int, d: int, seed: int) -> np.ndarray:
    """Features of norm one, for which the theory's bound is met exactly, with a spectrum over two decades."""
    x = np.random.default_rng(seed).normal(size=(n, d)) * np.geomspace(1.0, 0.1, d)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def steps_left(x: np.ndarray, m: int, rates: np.ndarray) -> np.ndarray:
    """E (I - ηĤ)² over batches of m drawn independently, by its definition: E Ĥ² from the pairs of a batch."""
    outer = x[:, :, None] * x[:, None, :]
    mean = outer.mean(axis=0)
    square = (outer @ outer).mean(axis=0)
    rates = rates[:, None, None]
    return np.eye(x.shape[1]) - 2 * rates * mean + rates**2 * (square / m + (m - 1) / m * mean @ mean)


def measured_step(x: np.ndarray, m: int) -> tuple[float, float]:
    """The learning rate at which the worst error shrinks most, and what is left of it, by ever finer grids."""
    low, high = 0.0, 2.0 * m
    for _ in range(6):
        rates = np.linspace(low, high, 101)
        left = np.linalg.eigvalsh(steps_left(x, m, rates))[:, -1]
        best = int(np.argmin(left))
        low, high = rates[max(best - 1, 0)], rates[min(best + 1, 100)]
    return float(rates[best]), float(left[best])


def test_the_best_step_and_the_critical_batch_are_the_measured_ones() -> None:
    x = unit_features(400, 6, seed=0)
    spectrum = feature_spectrum(x)
    critical = spectrum.critical_samples
    assert spectrum.lambda_k is not None and 3 < critical < 40
    for m in range(1, round(2 * critical) + 2):
        rate, left = measured_step(x, m)
        assert spectrum.step(m) == pytest.approx(rate, rel=1e-4)
        assert spectrum.contraction(m, spectrum.step(m)) == pytest.approx(left, rel=1e-6)
    # Measured, m/η* is a straight line in m - 1 while m steps of one are as good, and half of another line beyond,
    # where the greatest curvature limits the step. The critical batch is where the two lines meet.
    small, large = (2, 3), (round(2 * critical), round(3 * critical))
    below = np.polyfit(np.array(small) - 1, [m / measured_step(x, m)[0] for m in small], 1)
    beyond = np.polyfit(np.array(large) - 1, [m / measured_step(x, m)[0] for m in large], 1)
    crossing = (below[1] - beyond[1]) / (beyond[0] - below[0])
    assert 1 + crossing == pytest.approx(critical, rel=0.05)


def test_batches_really_drawn_leave_what_the_theory_says() -> None:
    x = unit_features(400, 6, seed=1)
    spectrum, random = feature_spectrum(x), np.random.default_rng(0)
    for m in (1, round(spectrum.critical_samples), 60):
        rate = spectrum.step(m)
        direction = np.linalg.eigh(steps_left(x, m, np.array([rate])))[1][0, :, -1]
        batches = x[random.integers(len(x), size=(4000, m))]
        after = direction - rate * np.einsum("sm,smd->sd", batches @ direction, batches) / m
        # A mean of 4000 squares that spread by at most their size: an error of 1.6 %.
        assert np.mean(np.sum(after**2, axis=1)) == pytest.approx(spectrum.contraction(m, rate), rel=0.05)


@settings(max_examples=100, deadline=None)
@given(beta=st.floats(0.1, 100), top=st.floats(0.01, 1), bottom=st.floats(0.01, 0.99), m=st.integers(1, 500))
def test_no_other_step_is_better(beta: float, top: float, bottom: float, m: int) -> None:
    spectrum = Spectrum(beta, top * beta, bottom * top * beta)
    best = spectrum.step(m)
    left = spectrum.contraction(m, best)
    lk = bottom * top * beta
    if m <= spectrum.critical_samples:
        assert left == pytest.approx(1 - m * lk / (beta + (m - 1) * lk), abs=1e-9)
    for factor in (0.9, 0.99, 1.01, 1.1):
        assert spectrum.contraction(m, factor * best) >= left - 1e-12


def test_general_convex_losses() -> None:
    spectrum = Spectrum(8.0, 2.0)
    assert spectrum.critical_samples == 5.0
    assert [spectrum.step(m) for m in (1, 5)] == [1 / 8, 5 / 16]
    assert spectrum.step(1e9) == pytest.approx(1 / 2)
    assert spectrum.contraction(5, spectrum.step(5)) == 1.0  # a direction without curvature is left alone
    assert Spectrum(8.0, 2.0, 2.0).critical_samples == math.inf


@pytest.mark.parametrize(("n", "d"), [(40, 7), (7, 40)])
def test_spectrum_of_features_and_of_their_kernel(n: int, d: int) -> None:
    x = np.random.default_rng(2).normal(size=(n, d))
    singular = np.linalg.svd(x, compute_uv=False) ** 2 / n
    for found in (feature_spectrum(x), feature_spectrum(torch.tensor(x)), kernel_spectrum(x @ x.T)):
        assert found.beta == pytest.approx(max(float(row @ row) for row in x))
        assert found.lambda_1 == pytest.approx(singular[0])
        assert found.lambda_k == pytest.approx(singular[-1])


def test_eigenvalues_of_zero_do_not_count() -> None:
    x = np.random.default_rng(3).normal(size=(30, 4))
    doubled = np.hstack([x, x])  # rank 4 of 8
    assert feature_spectrum(doubled).lambda_k == pytest.approx(2 * feature_spectrum(x).lambda_k)  # type: ignore[operator]


def test_rules_keep_the_critical_batch_and_take_its_step() -> None:
    text = "interpolation(8.0, 2.0, 0.4)"
    size = batch_size_rule(text)
    assert isinstance(size, Interpolation)
    step = size.lr_rule
    spectrum = Spectrum(8.0, 2.0, 0.4)
    assert size.start(Plan(1000))[0].batch_size == math.floor(spectrum.critical_samples) == 6
    assert size.start(Plan(3))[0].batch_size == 3
    assert batch_size_rule("interpolation(8.0, 2.0, 2.0)").start(Plan(1000))[0].batch_size == 1000
    state = step.start(Plan(1000))[1]
    for m in (1, 6, 50):
        now = StepContext(0, 0, m, 1000, 1.0, 1.0, 0.1)
        with pytest.raises(StopIteration) as stop:
            next(step.decide(now, state))
        assert stop.value.value[0].lr == spectrum.step(m)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Spectrum(1.0, 2.0), "belong to no loss"),
        (lambda: Spectrum(3.0, 2.0, 2.5), "belong to no loss"),
        (lambda: Spectrum(0.0, 2.0), "beta"),
        (lambda: batch_size_rule("interpolation(8.0, 9.0)"), "belong to no loss"),
        (lambda: batch_size_rule("interpolation(8.0)"), "lambda_1"),
        (lambda: batch_size_rule("interpolation(8.0, 1.0, max_size=0)"), "Interpolation.max_size"),
        (lambda: feature_spectrum(np.zeros((3, 2))), "all zero"),
        (lambda: feature_spectrum(np.zeros(3)), "give a matrix"),
        (lambda: feature_spectrum(np.array([[np.nan]])), "not finite"),
        (lambda: kernel_spectrum(np.array([[1.0, 2.0], [0.0, 1.0]])), "not symmetric"),
        (lambda: kernel_spectrum(np.array([[1.0, 2.0], [2.0, 1.0]])), "positive semidefinite"),
    ],
)
def test_refuses_what_has_no_spectrum(build: Any, words: str) -> None:
    with pytest.raises(InputError) as caught:
        build()
    assert words in str(caught.value)
