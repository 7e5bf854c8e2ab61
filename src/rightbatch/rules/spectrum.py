"""What mini-batches are worth if a model can fit its data exactly: the critical batch and the best learning rates."""

import math
from dataclasses import dataclass

from ..errors import InputError
from ..ranges import require_number


@dataclass(frozen=True, slots=True)
class Spectrum:
    """The curvature of a convex loss that can be driven to zero, of one sample and of the mean over all.

    For least squares, f_i = (⟨w, x_i⟩ - y_i)²/2, one step of m samples drawn independently from weights w that are off
    by δ leaves E‖δ'‖² <= g(m, η)·‖δ‖² with g(m, η) = max_λ (1 - ηλ)² + η²·λ·(β - λ)/m over the eigenvalues λ > 0 of H.
    Everything below follows from that.

    | symbol | argument | meaning |
    |---|---|---|
    | β | beta | largest curvature of a single sample: max_i ‖x_i‖² for least squares |
    | λ₁ | lambda_1 | largest eigenvalue of H, the mean Hessian: (1/n)·Σ x_i x_iᵀ for least squares |
    | λ_k | lambda_k | smallest eigenvalue of H above zero; None if it is not known or the loss not quadratic |

    A loss of (⟨w, x_i⟩ - y_i)², without the half, has twice these values: twice β, λ₁ and λ_k.

    Args:
        beta: β.
        lambda_1: λ₁, at most β.
        lambda_k: λ_k, at most λ₁.

    Raises:
        InputError: not above 0, or not λ_k <= λ₁ <= β.

    Reference: S. Ma, R. Bassily, M. Belkin, "The Power of Interpolation: Understanding the Effectiveness of SGD in
    Modern Over-parametrized Learning" (ICML 2018; arXiv 1712.06559).
    """

    beta: float
    lambda_1: float
    lambda_k: float | None = None

    def __post_init__(self) -> None:
        """Check that a loss can have this spectrum."""
        require_number("beta", self.beta, above=0)
        require_number("lambda_1", self.lambda_1, above=0)
        if self.lambda_k is not None:
            require_number("lambda_k", self.lambda_k, above=0)
        if self.lambda_1 > self.beta or (self.lambda_k or 0.0) > self.lambda_1:
            raise InputError(
                f"beta={self.beta:g}, lambda_1={self.lambda_1:g}, lambda_k={self.lambda_k} belong to no loss: the mean "
                "Hessian's eigenvalues are at most beta, and lambda_k is the smallest of them."
            )

    @property
    def critical_samples(self) -> float:
        """m* = β/(λ₁ - λ_k) + 1, with λ_k unknown β/λ₁ + 1: up to here m samples are worth m steps, beyond hardly more.

        Infinite where λ_k = λ₁.
        """
        width = self.lambda_1 - (self.lambda_k or 0.0)
        return self.beta / width + 1 if width > 0 else math.inf

    def step(self, samples: float) -> float:
        """η*(m), the learning rate for batches of m samples that shrinks the slowest error most.

        m/(β + (m - 1)·λ_k) up to m*, 2m/(β + (m - 1)·(λ₁ + λ_k)) beyond; with λ_k unknown m/(β + (m - 1)·λ₁).
        """
        m = samples
        if self.lambda_k is None:
            return m / (self.beta + (m - 1) * self.lambda_1)
        if m <= self.critical_samples:
            return m / (self.beta + (m - 1) * self.lambda_k)
        return 2 * m / (self.beta + (m - 1) * (self.lambda_1 + self.lambda_k))

    def contraction(self, samples: float, lr: float) -> float:
        """g(m, η): what is left of ‖w - w*‖², in expectation and at most, by a step of m samples at η.

        Over λ it is a convex parabola for m > 1, greatest at an end of the spectrum. With λ_k unknown that end is 0,
        where nothing shrinks.
        """

        def left(eigenvalue: float) -> float:
            noise = lr**2 * eigenvalue * (self.beta - eigenvalue) / samples
            return (1 - lr * eigenvalue) ** 2 + noise

        return max(left(self.lambda_1), left(self.lambda_k or 0.0))
