"""Per-example squared gradient norms of the scale and shift of normalisation layers."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from ...errors import UnsupportedError
from ..gradient_norm import row_norms2
from .rule import Rule, Snapshot, keep_input, trains, widened


def keep_statistics(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Snapshot:
    """The input with the mean and 1/deviation that the forward pass saved, where the backend saves them."""
    value, node = inputs[0].detach(), output.grad_fn
    mean, rstd = getattr(node, "_saved_result1", None), getattr(node, "_saved_result2", None)
    if mean is None or rstd is None:
        return (value,)
    return value, mean.detach(), rstd.detach()  # detached, lest node and closure keep each other alive


def layer_norm_norms2(layer: nn.LayerNorm, kept: Snapshot, d: Tensor) -> Tensor:
    """‖Σ_t x̂_it ⊙ d_it‖² + ‖Σ_t d_it‖² for each sample, x̂ the normalised input and t the positions.

    Args:
        layer: the layer.
        kept: input, shape (b, ..., *normalized_shape), then mean and 1/deviation.
        d: gradient at the output, of the input's shape.
    """
    a, d = widened(kept[0], d)
    _require_samples(layer, a)
    rows = (len(a), -1, layer.weight.numel())
    norms2 = a.new_zeros(len(a))
    if trains(layer.weight):
        if len(kept) == 3:
            normalised = (a - kept[1]).mul_(kept[2])
        else:
            normalised = F.layer_norm(a, layer.normalized_shape, None, None, layer.eps)
        norms2 += row_norms2(normalised.mul_(d).reshape(rows).sum(1))
    if trains(layer.bias):
        norms2 += row_norms2(d.reshape(rows).sum(1))
    return norms2


def rms_norm_norms2(layer: nn.RMSNorm, kept: Snapshot, d: Tensor) -> Tensor:
    """‖Σ_t x̂_it ⊙ d_it‖² for each sample, x̂ the input over its root mean square and t the positions.

    Args:
        layer: the layer.
        kept: input, shape (b, ..., *normalized_shape).
        d: gradient at the output, of the input's shape.
    """
    eps = torch.finfo(kept[0].dtype).eps if layer.eps is None else layer.eps  # that of the precision it was run in
    a, d = widened(kept[0], d)
    _require_samples(layer, a)
    normalised = F.rms_norm(a, layer.normalized_shape, None, eps)
    return row_norms2(normalised.mul_(d).reshape(len(a), -1, layer.weight.numel()).sum(1))


def _require_samples(layer: nn.LayerNorm | nn.RMSNorm, a: Tensor) -> None:
    if a.ndim <= len(layer.normalized_shape):
        raise UnsupportedError(f"its input has shape {tuple(a.shape)}, without a dimension for the samples")


def group_norm_norms2(layer: nn.GroupNorm, kept: Snapshot, d: Tensor) -> Tensor:
    """‖Σ_t x̂_it ⊙ d_it‖² + ‖Σ_t d_it‖² for each sample, x̂ the normalised input and t the positions.

    The framework's own kernel sums over samples; with the channels of all samples laid out as channels of one, it has
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
        d.reshape(1, b * channels, -1),
        a.reshape(1, b * channels, -1),
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


def keep_normalised(layer: _NormBase, inputs: tuple[Any, ...], output: Tensor) -> Snapshot:
    """The normalised input: of InstanceNorm, and of BatchNorm by fixed statistics."""
    a = inputs[0].detach()
    if isinstance(layer, _InstanceNorm) and a.ndim == layer._get_no_batch_dim():  # type: ignore[no-untyped-call]
        raise UnsupportedError(f"its input has shape {tuple(a.shape)}, without a dimension for the samples")
    fixed = not layer.training and layer.running_mean is not None
    mean, variance = (layer.running_mean, layer.running_var) if fixed else (None, None)
    if isinstance(layer, _BatchNorm):
        return (F.batch_norm(a, layer.running_mean, layer.running_var, eps=layer.eps),)
    return (F.instance_norm(a, mean, variance, use_input_stats=not fixed, eps=layer.eps),)


def channel_norms2(layer: _NormBase, kept: Snapshot, d: Tensor) -> Tensor:
    """‖Σ_t x̂_it ⊙ d_it‖² + ‖Σ_t d_it‖² for each sample, x̂ the normalised input and t the positions.

    Args:
        layer: the layer.
        kept: normalised input, shape (b, channels, ...).
        d: gradient at the output, of the input's shape.
    """
    a, d = widened(kept[0], d)
    rows = (*a.shape[:2], -1)
    norms2 = a.new_zeros(len(a))
    if trains(layer.weight):
        norms2 += row_norms2((a * d).reshape(rows).sum(2))
    if trains(layer.bias):
        norms2 += row_norms2(d.reshape(rows).sum(2))
    return norms2


def _scale_and_shift(layer: _NormBase, kept: Snapshot, weight: Tensor, bias: Tensor | None) -> Tensor:
    along = (1, -1) + (1,) * (kept[0].ndim - 2)
    output: Tensor = kept[0] * weight.view(along)
    return output if bias is None else output + bias.view(along)


LAYER_NORM = Rule(
    keep_statistics,
    layer_norm_norms2,
    lambda layer, kept, w, b: F.layer_norm(kept[0], layer.normalized_shape, w, b, layer.eps),
)
RMS_NORM = Rule(
    keep_input, rms_norm_norms2, lambda layer, kept, w, b: F.rms_norm(kept[0], layer.normalized_shape, w, layer.eps)
)
GROUP_NORM = Rule(
    keep_statistics,
    group_norm_norms2,
    lambda layer, kept, w, b: F.group_norm(kept[0], layer.num_groups, w, b, layer.eps),
)
CHANNEL_NORM = Rule(keep_normalised, channel_norms2, _scale_and_shift)
