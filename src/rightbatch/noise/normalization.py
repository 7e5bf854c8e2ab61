"""Per-example squared gradient norms of the scale and shift of LayerNorm and GroupNorm."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UnsupportedError
from .gradient_norm import row_norms2
from .layers import Kept, Rule, trains, widened


def keep_statistics(value: Tensor, node: Any) -> Kept:
    """The input with the mean and 1/deviation that the forward pass saved, where the backend saves them."""
    mean, rstd = getattr(node, "_saved_result1", None), getattr(node, "_saved_result2", None)
    if mean is None or rstd is None:
        return (value.detach(),)
    return value.detach(), mean.detach(), rstd.detach()  # detached, lest node and closure keep each other alive


def layer_norm_norms2(layer: nn.LayerNorm, kept: Kept, d: Tensor) -> Tensor:
    """‖Σ_t x̂_it ⊙ d_it‖² + ‖Σ_t d_it‖² for each example, x̂ the normalised input and t the positions.

    Args:
        layer: the layer.
        kept: input, shape (b, ..., *normalized_shape), then mean and 1/deviation.
        d: gradient at the output, of the input's shape.
    """
    a, d = widened(kept[0], d)
    shape = layer.normalized_shape
    if a.ndim <= len(shape):
        raise UnsupportedError(f"its input has shape {tuple(a.shape)}, without a dimension for the examples")
    rows = (len(a), -1, layer.weight.numel())
    norms2 = a.new_zeros(len(a))
    if trains(layer.weight):
        normalised = (a - kept[1]).mul_(kept[2]) if len(kept) == 3 else F.layer_norm(a, shape, None, None, layer.eps)
        norms2 += row_norms2(normalised.mul_(d).reshape(rows).sum(1))
    if trains(layer.bias):
        norms2 += row_norms2(d.reshape(rows).sum(1))
    return norms2


def group_norm_norms2(layer: nn.GroupNorm, kept: Kept, d: Tensor) -> Tensor:
    """‖Σ_t x̂_it ⊙ d_it‖² + ‖Σ_t d_it‖² for each example, x̂ the normalised input and t the positions.

    The framework's own kernel sums over examples; with the channels of all examples laid out as channels of one, it has
    nothing to sum over and returns the gradient of each.

    Args:
        layer: the layer.
        kept: input, shape (b, channels, ...), then mean and 1/deviation.
        d: gradient at the output, of the input's shape.
    """
    a, d = widened(kept[0], d)
    b, channels, groups = len(a), layer.num_channels, layer.num_groups
    a, d = a.reshape(b, channels, -1), d.reshape(b, channels, -1)
    if len(kept) == 3:
        mean, rstd = kept[1].to(a.dtype), kept[2].to(a.dtype)
    else:
        _, mean, rstd = torch.native_group_norm(a, None, None, b, channels, a.shape[2], groups, layer.eps)
    _, scales, shifts = torch.ops.aten.native_group_norm_backward(
        d.view(1, b * channels, -1),
        a.view(1, b * channels, -1),
        mean.reshape(1, -1),
        rstd.reshape(1, -1),
        a.new_ones(b * channels),
        1,
        b * channels,
        a.shape[2],
        b * groups,
        [False, True, True],
    )
    norms2 = a.new_zeros(b)
    if trains(layer.weight):
        norms2 += row_norms2(scales.view(b, channels))
    if trains(layer.bias):
        norms2 += row_norms2(shifts.view(b, channels))
    return norms2


LAYER_NORM = Rule(
    keep_statistics, layer_norm_norms2, lambda layer, a, w, b: F.layer_norm(a, layer.normalized_shape, w, b, layer.eps)
)
GROUP_NORM = Rule(
    keep_statistics, group_norm_norms2, lambda layer, a, w, b: F.group_norm(a, layer.num_groups, w, b, layer.eps)
)
