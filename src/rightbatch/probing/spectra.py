"""The spectrum of a least-squares problem, from features or from a kernel matrix."""

from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..rules.spectrum import Spectrum


def feature_spectrum(features: Any) -> Spectrum:
    """The curvatures of least squares on these features, f_i = (⟨w, x_i⟩ - y_i)²/2.

    β = max_i ‖x_i‖²; λ₁ and λ_k are the largest and the smallest eigenvalue of H = (1/n)·Σ_i x_i x_iᵀ above rounding
    errors, computed in float64 from the smaller of H and the n × n matrix of inner products.

    Args:
        features: n × d, a tensor or an array; a column of ones where the model has an intercept.

    Returns:
        β, λ₁ and λ_k.

    Raises:
        InputError: not a matrix, not finite, or all zero.

    Reference: S. Ma, R. Bassily, M. Belkin, "The Power of Interpolation" (ICML 2018; arXiv 1712.06559).
    """
    x = _matrix("feature matrix", features)
    gram = x.T @ x if x.shape[1] <= x.shape[0] else x @ x.T
    return _spectrum("feature matrix", gram / x.shape[0], float(x.square().sum(dim=1).max()))


def kernel_spectrum(kernel: Any) -> Spectrum:
    """The curvatures of kernel least squares, H = K/n in the feature space of the kernel.

    β = max_i K_ii; λ₁ and λ_k are the largest and the smallest eigenvalue of K/n above rounding errors.

    Args:
        kernel: K, n × n, symmetric, K_ij = k(x_i, x_j), a tensor or an array.

    Returns:
        β, λ₁ and λ_k.

    Raises:
        InputError: not square or symmetric, not finite, all zero, or with a negative eigenvalue.

    Reference: S. Ma, R. Bassily, M. Belkin, "The Power of Interpolation" (ICML 2018; arXiv 1712.06559).
    """
    k = _matrix("kernel matrix", kernel)
    if k.shape[0] != k.shape[1] or not torch.allclose(k, k.T, rtol=1e-6, atol=1e-9 * float(k.abs().max())):
        raise InputError(f"The kernel matrix of shape {tuple(k.shape)} is not symmetric: give K_ij = k(x_i, x_j).")
    return _spectrum("kernel matrix", k / k.shape[0], float(k.diagonal().max()))


def _matrix(what: str, values: Any) -> Tensor:
    matrix = torch.as_tensor(values).detach().to("cpu", torch.float64)
    if matrix.ndim != 2 or matrix.numel() == 0:
        raise InputError(f"The {what} has shape {tuple(matrix.shape)}: give a matrix.")
    if not bool(torch.isfinite(matrix).all()):
        raise InputError(f"The {what} contains values that are not finite: remove them.")
    return matrix


def _spectrum(what: str, mean: Tensor, beta: float) -> Spectrum:
    eigenvalues = torch.linalg.eigvalsh(mean)
    greatest = float(eigenvalues[-1])
    rounding = len(eigenvalues) * torch.finfo(torch.float64).eps * abs(greatest)
    if greatest <= 0:
        raise InputError(f"The {what} is all zero: give at least one nonzero value.")
    if float(eigenvalues[0]) < -max(rounding, 1e-6 * greatest):
        raise InputError(
            f"The {what} has the eigenvalue {float(eigenvalues[0]):.3g}: it must be positive semidefinite."
        )
    above = eigenvalues[eigenvalues > rounding]
    return Spectrum(beta, min(greatest, beta), min(float(above[0]), beta))
