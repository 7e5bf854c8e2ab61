"""The slow, exact twin: one backward pass for each sample, and the definitions written out."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from ..measurements import Measurement, StandardErrors

Loss = Callable[[Tensor, Tensor], Tensor]


def sample_gradients(model: nn.Module, loss: Loss, x: Tensor, y: Tensor) -> Iterator[Tensor]:
    """The gradient of each sample alone, in turn: shape (p,), float64 on the CPU, over the trainable parameters."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    for i in range(len(x)):
        gradients = torch.autograd.grad(loss(model(x[i : i + 1]), y[i : i + 1]), parameters, allow_unused=True)
        yield flat(gradients, parameters)


def flat(gradients: tuple[Tensor | None, ...], parameters: list[nn.Parameter]) -> Tensor:
    """Gradients as one float64 vector on the CPU; None is zero."""
    return torch.cat(
        [
            (torch.zeros_like(p) if g is None else g.detach().to_dense()).cpu().double().reshape(-1)
            for g, p in zip(gradients, parameters, strict=True)
        ]
    )


def per_example_gradients(model: nn.Module, loss: Loss, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of every sample.

    Args:
        model: the model, as it stands; for reference values in float64 make it double first.
        loss: (output, target) -> mean loss, a scalar.
        x: inputs, shape (b, ...).
        y: targets, shape (b, ...).

    Returns:
        Shape (b, p), float64, p the number of trainable parameters in the order of `model.parameters()`.
    """
    return torch.stack(list(sample_gradients(model, loss, x, y)))


def reference_measurement(model: nn.Module, loss: Loss, x: Tensor, y: Tensor) -> Measurement:
    """V̂, ŝ and V̂/ŝ by their definitions, with jackknife standard errors by leaving each sample out in earnest.

    Args:
        model: the model.
        loss: (output, target) -> mean loss, a scalar.
        x: inputs, shape (b, ...), b at least 2.
        y: targets, shape (b, ...).
    """
    g = per_example_gradients(model, loss, x, y)
    b = len(g)
    norm2, variance, signal = _moments(g)
    errors = [math.nan] * 3
    if b > 2:
        kept = [_moments(torch.cat([g[:i], g[i + 1 :]])) for i in range(b)]
        values = torch.tensor([[v, s, v / s if s > 0 else math.inf] for _, v, s in kept], dtype=torch.float64)
        errors = ((values - values.mean(0)).square().sum(0) * (b - 1) / b).sqrt().tolist()
    if signal <= 0 or not math.isfinite(errors[2]):
        errors[2] = math.nan if b == 2 else math.inf
    return Measurement(
        b, norm2, variance, signal, StandardErrors(*errors), method="reference", reason="one backward pass per example"
    )


def _moments(g: Tensor) -> tuple[float, float, float]:
    """‖ḡ‖², V̂ and ŝ."""
    mean = g.mean(0)
    norm2 = mean.square().sum().item()
    variance = (g - mean).square().sum().item() / (len(g) - 1)
    return norm2, variance, norm2 - variance / len(g)
