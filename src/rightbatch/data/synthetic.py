"""Synthetic problems: blobs to classify, and a quadratic whose gradient noise is known in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError
from .arrays import TensorSource, array_source


def blobs(n: int = 1000, centers: int = 3, features: int = 2, std: float = 2.0, seed: int = 2) -> TensorSource:
    """Draw points around centres; the targets are the centres.

    Centres are uniform in [-10, 10]; samples are distributed evenly, in random order.

    Args:
        n: number of samples, at least `centers`.
        centers: number of classes.
        features: number of dimensions.
        std: standard deviation of every coordinate about its centre.
        seed: seed of centres, points and order.

    Returns:
        x float32 (n, features), y int64 (n,).

    Raises:
        InputError: a size is below 1, n is below `centers`, or std is negative.
    """
    if min(centers, features) < 1 or n < centers or not std >= 0:
        raise InputError(
            f"blobs requires n >= centers >= 1, features >= 1 and std >= 0, got n={n}, centers={centers}, "
            f"features={features}, std={std}"
        )
    random = np.random.default_rng(seed)
    middles = random.uniform(-10, 10, (centers, features))
    y = random.permutation(np.arange(n) % centers)
    x = middles[y] + std * random.standard_normal((n, features))
    return array_source(x, y, (f"{centers} Gaussian blobs",))


@dataclass(frozen=True, slots=True)
class QuadraticNoise:
    """The gradient noise of ½ (w - z)ᵀ H (w - z) over z with mean c and covariance C.

    Per-example gradients are H (w - z), so that tr Σ = tr(H C H) everywhere and ‖g‖² = ‖H (w - c)‖².

    | symbol | argument | shape |
    |---|---|---|
    | H | hessian | (d, d), symmetric |
    | c | center | (d,) |
    | C | covariance | (d, d) |
    """

    hessian: Tensor
    center: Tensor
    covariance: Tensor

    def variance(self, w: Tensor | None = None) -> float:
        """Return tr Σ = tr(H C H), the same at every w."""
        return float(torch.trace(self.hessian @ self.covariance @ self.hessian))

    def gradient(self, w: Tensor) -> Tensor:
        """Return g = H (w - c), shape (d,), float64."""
        return self.hessian @ (w.detach().to(self.hessian).reshape(-1) - self.center)

    def signal(self, w: Tensor) -> float:
        """Return ‖g‖² at w."""
        return float(self.gradient(w).square().sum())

    def noise_scale(self, w: Tensor) -> float:
        """Return tr Σ / ‖g‖² at w, in samples; infinite at the minimum."""
        signal = self.signal(w)
        return self.variance(w) / signal if signal > 0 else math.inf


@dataclass(frozen=True, slots=True)
class Quadratic:
    """Minimise the mean over i of ½ (w - z_i)ᵀ H (w - z_i), with z_i drawn from N(w*, C).

    Train `model()` on `source` with the mean squared error: the loss is then exactly that mean, its gradient noise
    exactly `sample` when batches are drawn from these samples, and `population` when new samples are drawn.

    Args:
        source: x the z_i, shape (n, d), y zeros of the same shape.
        population: the noise under N(w*, C).
        sample: the noise under these n samples, the covariance with divisor n - 1, in float64.
    """

    source: TensorSource
    population: QuadraticNoise
    sample: QuadraticNoise

    def model(self) -> QuadraticModel:
        """Return a model at w = 0 with the source's dtype."""
        return QuadraticModel(self.population.hessian, self.source.x_dtype)


class QuadraticModel(nn.Module):
    """Return (d/2)^½ H^½ (w - z) for each sample z, whose mean squared error against 0 is ½ (w - z)ᵀ H (w - z).

    w is the weight of a linear layer with input 1, so that estimators for linear layers support this model.

    Args:
        hessian: H, shape (d, d), symmetric, positive semi-definite.
        dtype: dtype of w.
    """

    root: Tensor

    def __init__(self, hessian: Tensor, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        size = len(hessian)
        values, vectors = torch.linalg.eigh(hessian.double())
        root = vectors * values.clamp(min=0).sqrt() @ vectors.T
        self.register_buffer("root", (root * math.sqrt(size / 2)).to(dtype))
        self.w = nn.Linear(1, size, bias=False, dtype=dtype)
        nn.init.zeros_(self.w.weight)

    def forward(self, z: Tensor) -> Tensor:
        """Return the residuals of samples z, shape (b, d)."""
        w: Tensor = self.w(z.new_ones(len(z), 1))
        return (w - z) @ self.root


def quadratic(
    n: int = 1000,
    features: int = 10,
    condition: float = 10.0,
    noise: float = 1.0,
    distance: float = 1.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Quadratic:
    """Create a quadratic problem with known gradient noise.

    H has logarithmically spaced eigenvalues from 1/condition to 1, in random directions; C = noise² I; w* is at
    `distance` from the model's start, 0.

    Args:
        n: number of samples, at least 2.
        features: d.
        condition: largest over smallest eigenvalue of H, at least 1.
        noise: standard deviation of every coordinate of z_i.
        distance: ‖w*‖.
        seed: seed of H, w* and the z_i.
        dtype: dtype of the samples and the model.

    Raises:
        InputError: a size or scale is out of range.
    """
    if n < 2 or features < 1 or not (condition >= 1 and noise >= 0 and distance >= 0):
        raise InputError(
            "quadratic requires n >= 2, features >= 1, condition >= 1, noise >= 0 and distance >= 0, got "
            f"n={n}, features={features}, condition={condition}, noise={noise}, distance={distance}"
        )
    random = np.random.default_rng(seed)
    directions, _ = np.linalg.qr(random.standard_normal((features, features)))
    hessian = (directions * np.logspace(-math.log10(condition), 0, features)) @ directions.T
    hessian = (hessian + hessian.T) / 2
    optimum = random.standard_normal(features)
    optimum *= distance / np.linalg.norm(optimum)
    z = torch.from_numpy(optimum + noise * random.standard_normal((n, features))).to(dtype)
    source = TensorSource(z, torch.zeros_like(z), ("a quadratic with known gradient noise",))
    center = z.double().mean(0)
    spread = z.double() - center
    h = torch.from_numpy(hessian)
    return Quadratic(
        source,
        QuadraticNoise(h, torch.from_numpy(optimum), noise**2 * torch.eye(features, dtype=torch.float64)),
        QuadraticNoise(h, center, spread.T @ spread / (n - 1)),
    )
