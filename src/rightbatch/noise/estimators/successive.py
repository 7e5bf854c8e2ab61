"""The gradient noise from the gradients of two batches, one after the other: nearly free, and second-rate."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...errors import InputError
from ...measurements import Measurement
from ..gradient_norm import sum_dtype
from .estimator import Estimator


class SuccessiveGradients(Estimator):
    """Compares the gradient of a measured batch with that of the batch measured before it.

    V̂ = ‖g_t - g_(t-1)‖² / (1/b_t + 1/b_(t-1)),   ŝ = ⟨g_t, g_(t-1)⟩

    | symbol | argument | meaning |
    |---|---|---|
    | g_t, g_(t-1) | parameters | mean gradients of this measured batch and of the one before |
    | b_t, b_(t-1) | measurement(samples) | their samples |

    Both are unbiased for batches drawn apart at the same weights. Between them a step was taken, or several where not
    every batch is measured: whatever the gradient moved counts as noise and is missing in the signal, which steps along
    the gradient, and momentum more so, can turn negative: measure every step, and see the figures in
    docs/estimators.md. A copy of one gradient is kept.

    Args:
        parameters: the trainable parameters.

    Reference: Qiao, Choe, Subramanya, Neiswanger, Ho, Zhang, Ganger, Xing, "Pollux: co-adaptive cluster scheduling for
    goodput-optimized deep learning" (2021), whose implementation falls back to it. Differs: batches of unequal size.
    """

    name: ClassVar[str] = "successive"

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self._parameters = [p for p in parameters if p.requires_grad]
        self._gradients: list[Tensor] = []  # of the batch before, empty where there is none
        self._before = (0, 0.0)  # its samples, its ‖g‖²
        self._seen: tuple[int, float, float] | None = None  # this batch: samples, ‖g‖², scale

    @property
    def description(self) -> str:
        return "the gradients of batches one after the other"

    def measurement(self, gradient_norm2: float, samples: int, scale: float = 1.0) -> Measurement:
        """V̂ and ŝ from the gradients now in the parameters, against those kept.

        Returns:
            Variance and signal are nan for the first batch; the standard errors are nan.

        Raises:
            InputError: no sample.
        """
        if samples < 1:
            raise InputError(f"a batch of {samples} samples was given; at least 1 is needed")
        self._seen = (samples, gradient_norm2, scale)
        variance = signal = math.nan
        reason = "no gradient before this one"
        if self._gradients:
            before, norm2 = self._before
            signal = scale * self._product()
            variance = (gradient_norm2 + norm2 - 2 * signal) / (1 / samples + 1 / before)
            reason = "against the batch measured before"
        return Measurement(samples, gradient_norm2, variance, signal, method=self.name, reason=reason)

    def _product(self) -> float:
        """⟨Σ g, g_(t-1)⟩ with the gradients as accumulated."""
        parts = []
        for parameter, before in zip(self._parameters, self._gradients, strict=True):
            if parameter.grad is not None:
                now = _dense(parameter.grad).to(before.dtype)
                parts.append(torch.dot(now.reshape(-1), before.reshape(-1)).to(sum_dtype(before.device)))
        return sum(torch.stack([part.to(parts[0].device) for part in parts]).tolist()) if parts else 0.0

    def disarm(self) -> None:
        """Keep the gradient of the batch measured, unless it was given up and cleared."""
        seen, self._seen = self._seen, None
        if seen is None or all(p.grad is None for p in self._parameters):
            return
        samples, norm2, scale = seen
        if not self._gradients:
            self._gradients = [_room_for(p) for p in self._parameters]
        for parameter, kept in zip(self._parameters, self._gradients, strict=True):
            if parameter.grad is None:
                kept.zero_()
            else:
                kept.copy_(_dense(parameter.grad)).mul_(scale)
        self._before = (samples, norm2)

    def state_dict(self) -> dict[str, Any]:
        return {"gradients": [g.clone() for g in self._gradients], "before": list(self._before)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._gradients = []
        if state["gradients"]:
            self._gradients = [_room_for(p) for p in self._parameters]
            for kept, gradient in zip(self._gradients, state["gradients"], strict=True):
                kept.copy_(gradient)
        samples, norm2 = state["before"]
        self._before = (samples, norm2)
        self._seen = None


def _room_for(parameter: Tensor) -> Tensor:
    """Space for its gradient, in float32 at least."""
    dtype = torch.promote_types(parameter.dtype, torch.float32)
    return torch.empty_like(parameter, dtype=dtype, requires_grad=False, memory_format=torch.contiguous_format)


def _dense(gradient: Tensor) -> Tensor:
    gradient = gradient.detach()
    return gradient.to_dense() if gradient.is_sparse else gradient
