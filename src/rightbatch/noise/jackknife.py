"""The measurement of one batch, with standard errors, from per-example norms and inner products."""

import math

import torch
from torch import Tensor

from ..evidence import Measurement, StandardErrors


def jackknife(norms2: Tensor, products: Tensor, gradient_norm2: float, reason: str = "") -> Measurement:
    """V̂ and ŝ of a batch, and their exact jackknife standard errors without leaving any example out in earnest.

    Without example i, ‖Σ g - g_i‖² = b² ‖ḡ‖² - 2b p_i + n_i; with it every leave-one-out value follows, and the error
    of θ is sqrt((b-1)/b Σ_i (θ_(i) - θ_(·))²).

    | symbol | argument | meaning |
    |---|---|---|
    | n_i = ‖g_i‖² | norms2 | shape (b,), float64 |
    | p_i = ⟨g_i, ḡ⟩ | products | shape (b,), float64 |
    | ‖ḡ‖² | gradient_norm2 | of the mean gradient |

    Returns:
        The errors are nan for b = 2; that of the noise scale is infinite where V̂/ŝ is not finite throughout.

    Reference: Efron, "The jackknife, the bootstrap and other resampling plans" (1982), equation 3.3.
    """
    b = len(norms2)
    total = norms2.sum()
    variance = ((total - b * gradient_norm2) / (b - 1)).item()
    signal = gradient_norm2 - variance / b
    errors = StandardErrors(math.nan, math.nan, math.nan)
    if b > 2:
        left = b - 1
        mean2 = (b * b * gradient_norm2 - 2 * b * products + norms2) / left**2
        v = (total - norms2 - left * mean2) / (left - 1)
        s = mean2 - v / left
        bounded = signal > 0 and bool((s > 0).all())
        errors = StandardErrors(_error(v), _error(s), _error(v / s) if bounded else math.inf)
    return Measurement(b, gradient_norm2, variance, signal, errors, method="per-example", reason=reason)


def _error(values: Tensor) -> float:
    b = len(values)
    return torch.sqrt((values - values.mean()).square().sum() * (b - 1) / b).item()
