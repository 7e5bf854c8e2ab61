"""Least squares that can be solved exactly, with a known spectrum, and stochastic descent on them."""

import math
from typing import Any

import numpy as np

from ...errors import InputError
from ...rules.spectrum import Spectrum

Features = np.ndarray[Any, np.dtype[np.float64]]

FULL = 0  # stands for gradient descent on all the data
CONDITION = 100.0  # of the mean Hessian of real features; what lies below is left out
LOST = 1e3  # an error grown so far does not come back


def spread_features(samples: int, dimensions: int, decay: float, seed: int) -> Features:
    """Normal features whose j-th variance is j^-decay, scaled to norm one each, so that the theory's bound is exact."""
    random = np.random.default_rng(seed)
    return _unit(random.standard_normal((samples, dimensions)) * np.arange(1, dimensions + 1) ** (-decay / 2))


def kernel_features(x: Features, width: float) -> Features:
    """Features whose inner products are the Laplace kernel exp(-‖x_i - x_j‖/h), h `width` times the median distance.

    The symmetric root of the kernel matrix: in these n coordinates descent in the space of the kernel is least squares,
    and the distance of weights is the distance of functions there.

    Raises:
        InputError: the samples are all the same.
    """
    squares = (x * x).sum(axis=1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * x @ x.T, 0))
    np.fill_diagonal(distances, 0)
    median = float(np.median(distances[np.triu_indices(len(x), 1)]))
    if not median > 0:
        raise InputError("The median distance of two samples is 0: there is no width for a kernel on these data.")
    values, vectors = np.linalg.eigh(np.exp(-distances / (width * median)))
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T)


def principal_features(x: Features) -> Features:
    """The principal directions with at least a hundredth of the greatest curvature, samples scaled to norm one.

    Raises:
        InputError: there is only one such direction.
    """
    values, vectors = np.linalg.eigh(x.T @ x / len(x))
    kept = vectors[:, values >= values[-1] / CONDITION]
    if not values[-1] > 0 or kept.shape[1] < 2:
        raise InputError("The samples lie along one direction: there is no spectrum to speak of.")
    return _unit(x @ kept)


def best_rate(spectrum: Spectrum, size: int) -> float:
    """η*(m), and 2/(λ₁ + λ_k) for gradient descent."""
    return spectrum.step(size) if size != FULL else 2 / (spectrum.lambda_1 + (spectrum.lambda_k or 0.0))


def gone_at_least(spectrum: Spectrum, size: int, rate: float) -> float:
    """1 - g(m, η), the share of the worst squared error that a step takes away; g(∞, η) for gradient descent."""
    return 1 - spectrum.contraction(math.inf if size == FULL else size, rate)


def one_step(x: Features, size: int, rate: float, draws: int, seed: int) -> tuple[float, float]:
    """What a step on batches really drawn does to an error v at either end of the spectrum, with no theory in it.

    E‖(I - ηĤ)v‖² = 1 - 2η·E vᵀĤv + η²·E‖Ĥv‖², both means taken over the batches drawn.

    Returns:
        The share of the error of least curvature that is gone at `rate`, and the rate at which the worse of the two
        ends has most gone.
    """
    random, n = np.random.default_rng([seed, size]), len(x)
    counts = random.multinomial(size, np.full(n, 1 / n), size=draws) if size != FULL else np.ones((1, n))
    first, second = np.empty(2), np.empty(2)
    for j, v in enumerate(_curved(x)[:, [0, -1]].T):
        moved = (counts * (x @ v)) @ x / (size or n)
        first[j], second[j] = (moved @ v).mean(), np.square(moved).sum(axis=1).mean()
    apart = float(second[1] - second[0])
    meet = 2 * float(first[1] - first[0]) / apart if apart > 1e-12 * second[1] else 0.0
    best = max((*(first / second).tolist(), meet), key=lambda at: float(np.min(2 * at * first - at**2 * second)))
    return float(2 * rate * first[0] - rate**2 * second[0]), float(best)


def steps_until(x: Features, size: int, rate: float, accuracy: float, limit: float, replicas: int, seed: int) -> float:
    """Steps until the mean over replicas of ‖w - w*‖² has fallen to `accuracy` of what it was, between two steps
    interpolated in the logarithm; inf where that takes `limit` steps or more.

    Samples are drawn independently. Every replica starts equally far off along all directions of curvature.
    """
    random, n = np.random.default_rng([seed, size]), len(x)
    directions = _curved(x)
    off = random.choice([-1.0, 1.0], (replicas, directions.shape[1])) @ directions.T / math.sqrt(directions.shape[1])
    chances, left, step = np.full(n, 1 / n), 1.0, 0
    while step < limit:
        if size == 1:
            rows = x[random.integers(n, size=replicas)]
            off -= rate * np.einsum("rd,rd->r", off, rows)[:, None] * rows
        elif 0 < size * 4 < n:  # few enough to be looked up
            batch = x[random.integers(n, size=(replicas, size))]
            wrong = np.matmul(batch, off[:, :, None]).transpose(0, 2, 1)
            off -= rate / size * np.matmul(wrong, batch)[:, 0]
        else:
            counts = random.multinomial(size, chances, size=replicas) if size != FULL else 1
            off -= rate / (size or n) * ((off @ x.T) * counts) @ x
        step, before, left = step + 1, left, float(np.square(off).sum()) / replicas
        if left <= accuracy:
            return step - 1 + math.log(before / accuracy) / math.log(before / left)
        if not left < LOST:
            break
    return math.inf


def _unit(x: Features) -> Features:
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray((x / np.where(norms > 0, norms, 1))[norms[:, 0] > 0])


def _curved(x: Features) -> Features:
    """The directions of H, one a column, the least curved first; those flat up to rounding left out."""
    values, vectors = np.linalg.eigh(x.T @ x / len(x))
    return np.asarray(vectors[:, values > len(values) * np.finfo(float).eps * values[-1]])
