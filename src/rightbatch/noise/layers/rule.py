"""What a rule for a layer is: its samples' gradient norms, from its input and its output gradient alone.

Every rule here is exact. A layer is linear in its parameters, so that the gradient of sample i is a product of its
input a_i and its output gradient d_i; the norm of the product is had without forming it, or with a few samples
formed at once.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Snapshot = tuple[Any, ...]
CHUNK_FLOATS = 1 << 20
FULL_PRECISION = (torch.float32, torch.float64)


class Rule(NamedTuple):
    """The rule of one layer type.

    Args:
        keep: (layer, its inputs, output) -> what the backward pass needs, the input first, all tensors with one row for
            each sample; called in the forward pass.
        norms2: (layer, kept, d) -> ‖c_i‖² over the layer's trainable parameters, shape (b,).
        apply: (layer, kept, weight, bias) -> the layer's output with those parameters in place of its own.
    """

    keep: Callable[[Any, tuple[Any, ...], Tensor], Snapshot]
    norms2: Callable[[Any, Snapshot, Tensor], Tensor]
    apply: Callable[[Any, Snapshot, Tensor, Tensor | None], Tensor]


def trains(parameter: Tensor | None) -> bool:
    """Whether a parameter exists and is not frozen."""
    return parameter is not None and parameter.requires_grad


def keep_input(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Snapshot:
    """The input alone."""
    return (inputs[0].detach(),)


def keep_both(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Snapshot:
    """Both inputs."""
    return inputs[0].detach(), inputs[1].detach()


def widened(value: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Both tensors in one precision, float32 at least: products and squares of half-precision numbers overflow."""
    if value.dtype is gradient.dtype and value.dtype in FULL_PRECISION:
        return value, gradient
    wide = torch.promote_types(torch.promote_types(value.dtype, gradient.dtype), torch.float32)
    return value.to(wide), gradient.to(wide)


def spans(samples: int, floats_each: int) -> Iterator[slice]:
    """Cut a batch so that `floats_each` intermediate numbers per example stay within the cache."""
    size = max(1, CHUNK_FLOATS // max(1, floats_each))
    return (slice(start, start + size) for start in range(0, samples, size))
