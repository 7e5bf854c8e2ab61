"""Estimates of the per-example gradient norms of convolutions by random signs along one side's channels.

The projected side is one channel a probe, whose unfolding is small; it is multiplied with the other side as it stands.
The signs are the same at every place of the kernel, which the formula of `sketches` allows.
"""

from collections.abc import Sequence
from itertools import chain
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from .convolution import checked, convolution_norms2, padded, transposed_norms2
from .rule import Snapshot, spans, trains
from .signs import Signs, sketch_norms2

# In multiply-adds, by timing convolutions of 1 to 512 channels on maps of 4² to 32²: reading a float of a large tensor;
# copying a float of a small one into its windows.
READ, COPY = 2, 20
# Channels for each column of the kernel, below which reading them once for every row of it costs less than unfolding
# the rows too.
SLIDING = 3


def convolution_sketch(layer: _ConvNd, kept: Snapshot, d: Tensor, signs: Signs, probes: int) -> Tensor:
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


def transposed_sketch(layer: _ConvTransposeNd, kept: Snapshot, d: Tensor, signs: Signs, probes: int) -> Tensor:
    """Unbiased estimates of the per-example squared gradient norms of a transposed convolution.

    Its weight gradient is that of the convolution with input and output exchanged (`transposed_norms2`). Arguments and
    result are those of `convolution_sketch`.
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
    if groups > 1:  # a group sees nothing of the others: it is a sample of its own
        x, g = (value.reshape(b * groups, -1, *value.shape[2:]) for value in (x, g))
    kernel, dilation = layer.weight.shape[2:], layer.dilation
    if along_input(kernel, x.shape[1], prod(x.shape[2:]), g.shape[1], prod(g.shape[2:])):
        projected = _projected(x, signs, probes)
        y, padding = padded(layer, projected)
        y = F.pad(y, list(chain.from_iterable((p, p) for p in reversed(padding))))
        norms2 = _correlated(y, g, kernel, layer.stride, dilation, signs if of_output else None)
        own_bias = of_input
    else:
        x, padding = padded(layer, x)
        projected = _projected(g, signs, probes)
        spread = _spread(layer, projected, x, padding)
        norms2 = _correlated(spread, x, kernel, (1,) * len(kernel), dilation, signs if of_input else None)
        own_bias = of_output
    if own_bias:
        norms2 += sketch_norms2(projected.flatten(2).sum(2), probes)
    return norms2.view(b, groups).sum(1) if groups > 1 else norms2


def along_input(kernel: Sequence[int], inputs: int, places_in: int, outputs: int, places_out: int) -> bool:
    """Whether signs along the channels of what the kernel moves over cost less than along those of the other side."""
    size = prod(kernel)
    unfolded = size // kernel[0] if inputs < SLIDING * prod(kernel[1:]) else size
    along = READ * inputs * places_in + places_out * size * (outputs + COPY)
    return along <= READ * outputs * places_out + places_in * (size * inputs + unfolded * COPY)


def _projected(value: Tensor, signs: Signs, probes: int) -> Tensor:
    """Random signed sums of the channels: shape (b, probes, *map)."""
    b, channels, *sides = value.shape
    return torch.bmm(signs.draw((b, probes, channels), value), value.flatten(2)).view(b, probes, *sides)


def _correlated(
    y: Tensor, z: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], signs: Signs | None
) -> Tensor:
    """‖Σ_o z_o ⊗ (y under the kernel at o)‖², averaged over the channels of y, which are the probes.

    Args:
        y: shape (b, probes, *map), contiguous and as large as the kernel needs.
        z: shape (b, channels, *places).
        kernel: its sides.
        stride: of the kernel on y.
        dilation: of the kernel.
        signs: if given, ‖Σ z‖² is added: one more column of the gradient, its sign that of the kernel's first place.
    """
    b, probes, places = len(y), y.shape[1], z.shape[2:]
    e = None if signs is None else signs.draw((b, probes, 1), y)
    few = z.shape[1] < SLIDING * prod(kernel[1:]) and e is None and all(s == 1 for s in stride)
    parts = []
    for span in spans(b, probes * prod(kernel) * prod(places)):
        columns = z[span].flatten(2).mT
        if few:  # unfolding all sides but the first, along which the kernel's places are slices of one another
            u = _windows(y[span], (1, *kernel[1:]), (y.shape[2], *places[1:]), stride, dilation).flatten(1, 2)
            starts = (j * dilation[0] * prod(places[1:]) for j in range(kernel[0]))
            rows = torch.cat([torch.bmm(u[:, :, start : start + columns.shape[1]], columns) for start in starts], 1)
        else:
            u = _windows(y[span], kernel, places, stride, dilation)
            if e is not None:
                u[:, :, 0] += e[span]
            rows = torch.bmm(u.flatten(1, 2), columns)
        parts.append(sketch_norms2(rows, probes))
    return torch.cat(parts)


def _windows(
    y: Tensor, kernel: Sequence[int], places: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """A copy of what the kernel sees at each place, shape (b, channels, kernel, places)."""
    whole, channel, *steps = y.stride()
    within = (step * t for step, t in zip(steps, dilation, strict=True))
    between = (step * s for step, s in zip(steps, stride, strict=True))
    view = y.as_strided((*y.shape[:2], *kernel, *places), (whole, channel, *within, *between), y.storage_offset())
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
