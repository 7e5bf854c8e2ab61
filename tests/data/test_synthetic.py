"""Made-up problems: blobs as asked for, and a quadratic whose noise is what it says."""

import math
import sys

import numpy as np
import pytest
import torch
from torch.nn.functional import mse_loss

from rightbatch.data import blobs, load, quadratic
from rightbatch.errors import InputError, MissingExtraError


def test_blobs() -> None:
    source = blobs(n=3001, centers=4, features=5, std=0.5)
    x, y = source.fetch(torch.arange(3001))
    assert (source.x_shape, source.classes, len(source)) == ((5,), 4, 3001)
    assert torch.bincount(y).tolist() == [751, 750, 750, 750]
    # 15,000 coordinates estimate the standard deviation to 0.6 %; 3 % is five standard errors.
    within = torch.cat([x[y == label] - x[y == label].mean(0) for label in range(4)])
    assert abs(float(within.std()) - 0.5) < 0.015
    assert torch.equal(blobs(n=3001, centers=4, features=5, std=0.5).fetch(torch.arange(9))[0], x[:9])
    assert not torch.equal(blobs(seed=3).fetch(torch.arange(9))[0], blobs().fetch(torch.arange(9))[0])


@pytest.mark.parametrize("options", [{"n": 2}, {"centers": 0}, {"features": 0}, {"std": -1}, {"std": math.nan}])
def test_impossible_blobs_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match="blobs requires"):
        blobs(**options)  # type: ignore[arg-type]


def test_the_loss_is_the_quadratic() -> None:
    problem = quadratic(n=40, features=6, condition=30, seed=3, dtype=torch.float64)
    z, zeros = problem.source.fetch(torch.arange(40))
    model = problem.model()
    torch.nn.init.normal_(model.w.weight)
    w, h = model.w.weight.detach().reshape(-1), problem.population.hessian
    expected = sum(0.5 * (w - row) @ h @ (w - row) for row in z) / 40
    assert torch.allclose(mse_loss(model(z), zeros), expected, rtol=1e-12)


def test_the_noise_of_the_sample_is_exact() -> None:
    """Against the gradient of every sample on its own, in float64: only rounding separates them."""
    problem = quadratic(n=40, features=6, condition=30, noise=0.7, seed=3, dtype=torch.float64)
    z, zeros = problem.source.fetch(torch.arange(40))
    model = problem.model()
    torch.nn.init.normal_(model.w.weight)
    gradients = []
    for row in range(40):
        loss = mse_loss(model(z[row : row + 1]), zeros[row : row + 1])
        gradients.append(torch.autograd.grad(loss, model.w.weight)[0].reshape(-1))
    stacked = torch.stack(gradients)
    variance = float((stacked - stacked.mean(0)).square().sum() / 39)
    signal = float(stacked.mean(0).square().sum())
    w = model.w.weight
    assert math.isclose(problem.sample.variance(w), variance, rel_tol=1e-10)
    assert math.isclose(problem.sample.signal(w), signal, rel_tol=1e-10)
    assert math.isclose(problem.sample.noise_scale(w), variance / signal, rel_tol=1e-10)
    assert torch.allclose(problem.sample.gradient(w), stacked.mean(0), rtol=1e-10)


def test_the_population_is_what_samples_tend_to() -> None:
    """200,000 samples in 4 dimensions: the variance is known to (2 / 800,000)^½ · condition ≈ 0.3 %, 2 % is ample."""
    problem = quadratic(n=200_000, features=4, condition=5, noise=2.0, distance=3.0, seed=1)
    w = torch.zeros(4)
    values = np.logspace(-math.log10(5), 0, 4)
    assert math.isclose(problem.population.variance(w), 4 * float((values**2).sum()), rel_tol=1e-12)
    assert math.isclose(problem.sample.variance(w), problem.population.variance(w), rel_tol=0.02)
    assert math.isclose(problem.sample.signal(w), problem.population.signal(w), rel_tol=0.02)
    assert math.isclose(float(problem.population.center.norm()), 3.0, rel_tol=1e-12)
    assert problem.population.noise_scale(problem.population.center) == math.inf


@pytest.mark.parametrize("options", [{"n": 1}, {"features": 0}, {"condition": 0.5}, {"noise": -1}, {"distance": -1}])
def test_impossible_quadratics_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match="quadratic requires"):
        quadratic(**options)  # type: ignore[arg-type]


def test_built_in_sets() -> None:
    digits = load("digits")
    assert digits.test is not None and digits.name == "digits"
    assert (len(digits.train), len(digits.test), digits.train.x_shape) == (1438, 359, (1, 8, 8))
    assert digits.train.classes == digits.test.classes == 10
    x, y = digits.train.fetch(torch.arange(1438))
    assert (float(x.min()), float(x.max()), x.dtype) == (0, 1, torch.float32) and torch.bincount(y).min() > 100
    assert torch.equal(load("digits").train.fetch(torch.arange(50))[0], x[:50])
    assert not torch.equal(load("digits", seed=1).train.fetch(torch.arange(50))[0], x[:50])
    spots = load("blobs")
    assert spots.test is not None and (len(spots.train), len(spots.test)) == (800, 200)
    assert load("quadratic").test is None


def test_the_three_blobs_are_those_published() -> None:
    """Centres uniform in ±10, then the points of one centre after another, all from one stream of seed 2."""
    random = np.random.RandomState(2)
    centres = random.uniform(-10, 10, (3, 2))
    points = np.concatenate([random.normal(c, 2, (n, 2)) for c, n in zip(centres, (334, 333, 333), strict=True)])
    made = load("three-blobs")
    assert made.test is not None and made.train.classes == made.test.classes == 3
    parts = [part.fetch(torch.arange(500)) for part in (made.train, made.test)]
    x, y = (torch.cat(both).numpy() for both in zip(*parts, strict=True))
    labels = np.repeat([0, 1, 2], [334, 333, 333])
    ours, theirs = (
        sorted(zip(*points.T.tolist(), labels.tolist(), strict=True)) for points, labels in ((x, y), (points, labels))
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    assert torch.equal(load("three-blobs", seed=1).train.fetch(torch.arange(500))[0], parts[0][0])


@pytest.mark.parametrize("name", ["digits", "three-blobs"])
def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtraError, match=r"'scikit-learn': pip install 'rightbatch\[demo\]'"):
        load(name)
