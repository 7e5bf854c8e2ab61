"""Estimates of per-example gradient norms by random signs, where the exact norms of a layer are dear.

The gradient of example i is a matrix c_i = Σ_t d_it a_itᵀ over positions t. For random signs e, ‖c_i e‖² has the mean
‖c_i‖², and c_i e = Σ_t d_it (a_it·e) takes no more than one reading of the input and one of the output gradient. Every
example has signs of its own, so that the errors of a batch average out.

| symbol | argument | meaning |
|---|---|---|
| a_it | kept[0] | input at position t, the bias's 1 appended |
| d_it | d | gradient at the output |
| e | signs | ±1, independent for every example and probe |
| k | probes | sketches averaged |

The relative standard deviation of one example's estimate is at most sqrt(2/k), and of the sum over b examples about
sqrt(2/(k r b)), r = ‖c‖_F⁴/‖cᵀc‖_F² the effective rank of the gradients.

Reference: Hutchinson, "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines"
(1990), applied to tr(c_iᵀ c_i), one example at a time; convolutions are sketched over channels, at every place of the
kernel alike.
"""

from collections.abc import Callable, Sequence
from itertools import chain
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from .convolution import CONVOLUTION, TRANSPOSED_CONVOLUTION, checked, convolution_norms2, padded, transposed_norms2
from .gradient_norm import row_norms2
from .layers import LINEAR, Kept, Rule, linear_norms2, trains, widened
from .signs import Signs

# Reading a float of a large tensor, and copying one of a small tensor into its windows, in multiply-adds; by timing
# convolutions of 1 to 512 channels on maps of 4² to 32².
READ, COPY = 2, 20

# (layer, kept, d, signs, probes) -> unbiased estimates of ‖c_i‖² over the layer's trainable parameters, shape (b,)
SketchFunction = Callable[[Any, Kept, Tensor, Signs, int], Tensor]


def linear_sketch(layer: nn.Linear, kept: Kept, d: Tensor, signs: Signs, probes: int) -> Tensor:
    """Unbiased estimates of the per-example squared gradient norms of a linear layer over positions.

    The signs act along the shorter side of the weight; the bias is one more column of it. What is exact for the same
    price stays exact: a single position, and a frozen weight.

    Args:
        layer: the layer, or anything with its weight and bias.
        kept: input, shape (b, ..., q).
        d: gradient at the output, shape (b, ..., p).
        signs: where the signs come from.
        probes: k.

    Returns:
        Shape (b,).
    """
    a, d = widened(kept[0], d)
    b, q, p = len(a), a.shape[-1], d.shape[-1]
    if a.numel() == b * q or not trains(layer.weight):
        return linear_norms2(layer, (a,), d)
    a, d = a.reshape(b, -1, q), d.reshape(b, -1, p)
    bias = trains(layer.bias)
    if q <= p:
        projected = torch.bmm(signs.draw((b, probes, q), a), a.mT)
        if bias:
            projected += signs.draw((b, probes, 1), a)
        return _squares(torch.bmm(projected, d), probes)
    projected = torch.bmm(signs.draw((b, probes, p), d), d.mT)
    norms2 = _squares(torch.bmm(projected, a), probes)
    return norms2.add_(_squares(projected.sum(2), probes)) if bias else norms2


def convolution_sketch(layer: _ConvNd, kept: Kept, d: Tensor, signs: Signs, probes: int) -> Tensor:
    """Unbiased estimates of the per-example squared gradient norms of a convolution of one to three dimensions.

    Args:
        layer: the convolution, of any stride, padding, dilation and groups.
        kept: input, shape (b, channels, *map).
        d: gradient at the output, shape (b, output channels, *output map).
        signs: where the signs come from.
        probes: k.

    Returns:
        Shape (b,).
    """
    if not trains(layer.weight):
        return convolution_norms2(layer, kept, d)
    a, d = checked(layer, kept, d)
    return _sketch(layer, a, d, signs, probes, of_output=trains(layer.bias))


def transposed_sketch(layer: _ConvTransposeNd, kept: Kept, d: Tensor, signs: Signs, probes: int) -> Tensor:
    """Unbiased estimates of the per-example squared gradient norms of a transposed convolution.

    Its weight gradient is that of the convolution with input and output exchanged (`transposed_norms2`).

    Args:
        layer: the transposed convolution.
        kept: input, shape (b, channels, *map), and what else its rule keeps.
        d: gradient at the output, shape (b, output channels, *output map).
        signs: where the signs come from.
        probes: k.

    Returns:
        Shape (b,).
    """
    if not trains(layer.weight):
        return transposed_norms2(layer, kept, d)
    a, d = checked(layer, kept, d)
    return _sketch(layer, d, a, signs, probes, of_input=trains(layer.bias))


def _sketch(
    layer: _ConvNd, x: Tensor, g: Tensor, signs: Signs, probes: int, of_output: bool = False, of_input: bool = False
) -> Tensor:
    """‖Σ_o g_o ⊗ (x under the kernel at o)‖², sketched along the channels of x or of g, whichever costs less.

    Along x, the projected input is one channel a probe and is unfolded in place of x. Along g, Σ_o g_o x_(so + tk - p)
    is taken as Σ_i x_i g'_(i - tk + p), g' being the projected g with zeros in the gaps of the stride.

    Args:
        layer: gives kernel, stride s, dilation t and padding p.
        x: what the kernel moves over, shape (b, channels, *map).
        g: one value for each place of the kernel, shape (b, channels, *output map).
        signs: where the signs come from.
        probes: k.
        of_output: add ‖Σ g‖², from the bias of a convolution.
        of_input: add ‖Σ x‖², from the bias of a transposed convolution.
    """
    b, groups = len(x), layer.groups
    if groups > 1:  # a group sees nothing of the others: it is an example of its own
        x, g = (value.reshape(b * groups, -1, *value.shape[2:]) for value in (x, g))
    kernel, dilation = layer.weight.shape[2:], layer.dilation
    if along_input(layer, x, g):
        y = projected = _projected(x, signs, probes)
        y, padding = padded(layer, y)
        y = F.pad(y, list(chain.from_iterable((p, p) for p in reversed(padding))))
        unfolded = _windows(y, kernel, g.shape[2:], layer.stride, dilation)
        other, own_bias, other_bias = g, of_input, of_output
    else:
        x, padding = padded(layer, x)
        projected = _projected(g, signs, probes)
        unfolded = _windows(_spread(layer, projected, x, padding), kernel, x.shape[2:], (1,) * len(kernel), dilation)
        other, own_bias, other_bias = x, of_output, of_input
    if other_bias:  # Σ other is one more column of the gradient; its sign goes with the kernel's first place
        unfolded[:, :, 0] += signs.draw((len(x), probes, 1), x)
    norms2 = _squares(torch.bmm(unfolded.flatten(1, 2), other.flatten(2).mT), probes)
    if own_bias:
        norms2 += _squares(projected.flatten(2).sum(2), probes)
    return norms2.view(b, groups).sum(1) if groups > 1 else norms2


def along_input(layer: _ConvNd, x: Tensor, g: Tensor) -> bool:
    """Whether signs along the channels of x cost less than along those of g."""
    kernel, n, m = prod(layer.weight.shape[2:]), prod(x.shape[2:]), prod(g.shape[2:])
    return READ * x.shape[1] * n + kernel * m * (g.shape[1] + COPY) <= READ * g.shape[1] * m + kernel * n * (
        x.shape[1] + COPY
    )


def _projected(value: Tensor, signs: Signs, probes: int) -> Tensor:
    """Random signed sums of the channels: shape (b, probes, *map)."""
    b, channels, *sides = value.shape
    return torch.bmm(signs.draw((b, probes, channels), value), value.flatten(2)).view(b, probes, *sides)


def _windows(
    y: Tensor, kernel: Sequence[int], places: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """What the kernel sees at each place, shape (b, channels, kernel, places); y is contiguous and large enough."""
    whole, channel, *steps = y.stride()
    within = (step * t for step, t in zip(steps, dilation, strict=True))
    between = (step * s for step, s in zip(steps, stride, strict=True))
    view = y.as_strided((*y.shape[:2], *kernel, *places), (whole, channel, *within, *between))
    return view.reshape(*y.shape[:2], prod(kernel), -1).contiguous()  # in one dimension the reshape alone is a view


def _spread(layer: _ConvNd, w: Tensor, x: Tensor, padding: Sequence[int]) -> Tensor:
    """g': w with the gaps of the stride and a margin, such that the kernel fits on it at every place of x."""
    sides = list(
        zip(x.shape[2:], w.shape[2:], layer.weight.shape[2:], layer.stride, padding, layer.dilation, strict=True)
    )
    if any(s > 1 for s in layer.stride):
        spread = w.new_zeros(*w.shape[:2], *((m - 1) * s + 1 for _, m, _, s, _, _ in sides))
        spread[(slice(None), slice(None), *(slice(None, None, s) for s in layer.stride))] = w
        w = spread
    margins = ((t * (k - 1) - p, n - 1 + p - s * (m - 1)) for n, m, k, s, p, t in reversed(sides))
    return F.pad(w, list(chain.from_iterable(margins)))


def _squares(rows: Tensor, probes: int) -> Tensor:
    """Squared norms of sketches, shape (b, k, ...) or flat, averaged over the probes."""
    return row_norms2(rows.flatten(1)).div_(probes)


SKETCHES: dict[Rule, SketchFunction] = {
    LINEAR: linear_sketch,
    CONVOLUTION: convolution_sketch,
    TRANSPOSED_CONVOLUTION: transposed_sketch,
}
