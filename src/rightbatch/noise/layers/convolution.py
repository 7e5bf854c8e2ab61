"""Per-example squared gradient norms of convolutions and transposed convolutions of one to three dimensions."""

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ...errors import UnsupportedError
from ..gradient_norm import row_norms2
from .rule import Rule, Snapshot, keep_input, spans, trains, widened

# A Gram entry costs about 1.5 times an entry of the formed gradient, by timing at 64 to 256 channels and maps of 4²
# to 14².
GRAM_COST = 1.5
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def convolution_norms2(layer: _ConvNd, kept: Snapshot, d: Tensor) -> Tensor:
    """Per-example squared gradient norms of a convolution, any stride, padding, dilation and groups.

    | symbol | argument | meaning |
    |---|---|---|
    | a_i | kept[0] | input, shape (b, channels, *map) |
    | d_i | d | gradient at the output, shape (b, output channels, *output map) |

    Returns:
        Shape (b,).
    """
    a, d = checked(layer, kept, d)
    bias = trains(layer.bias)
    if not trains(layer.weight):
        return row_norms2(d.flatten(2).sum(2))
    a, padding = padded(layer, a)
    if gram_is_cheaper(layer, d):
        return _gram_norms2(layer, a, d, padding, bias)
    norms2 = _formed_norms2(layer, a, d, padding)
    return norms2.add_(row_norms2(d.flatten(2).sum(2))) if bias else norms2


def transposed_norms2(layer: _ConvTransposeNd, kept: Snapshot, d: Tensor) -> Tensor:
    """Per-example squared gradient norms of a transposed convolution.

    A transposed convolution is the adjoint of the convolution with the same weight: its weight gradient is that of the
    convolution, with the output gradient d_i for the input and the input a_i for the output gradient. An output
    enlarged by a stride or more has positions which that convolution would see and the input lacks: they are zero.
    Arguments and result are those of `convolution_norms2`.
    """
    a, d = checked(layer, kept, d)
    norms2 = row_norms2(d.flatten(2).sum(2)) if trains(layer.bias) else a.new_zeros(len(a))
    if not trains(layer.weight):
        return norms2
    geometry = zip(
        d.shape[2:], a.shape[2:], layer.weight.shape[2:], layer.stride, layer.padding, layer.dilation, strict=True
    )
    missing = [(n + 2 * int(p) - t * (k - 1) - 1) // s + 1 - m for n, m, k, s, p, t in geometry]
    if any(missing):
        a = F.pad(a, list(chain.from_iterable((0, m) for m in reversed(missing))))
    padding = tuple(int(p) for p in layer.padding)
    if gram_is_cheaper(layer, a):
        return norms2 + _gram_norms2(layer, d, a, padding, False)
    return norms2.add_(_formed_norms2(layer, d, a, padding))


def checked(layer: _ConvNd, kept: Snapshot, d: Tensor) -> tuple[Tensor, Tensor]:
    """Input and output gradient in one precision; a single sample without its dimension is refused."""
    a, d = widened(kept[0], d)
    if a.ndim != layer.weight.ndim:
        sides = ", ".join(("depth", "height", "width")[5 - layer.weight.ndim :])
        raise UnsupportedError(f"its input has shape {tuple(a.shape)}; (samples, channels, {sides}) is needed")
    return a, d


def padded(layer: _ConvNd, a: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """The input and the zero padding still to be added to it, other kinds of padding having been done."""
    if layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
        return a, tuple(layer.padding)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    none = (0,) * (layer.weight.ndim - 2)
    return F.pad(a, list(chain(layer._reversed_padding_repeated_twice)), mode=mode), none


def gram_is_cheaper(layer: _ConvNd, d: Tensor) -> bool:
    """Whether the output map is small against the kernel; the unfolding is there for one and two dimensions."""
    if layer.groups > 1 or d.ndim > 4:
        return False
    positions, outputs, fan_in = d[0, 0].numel(), d.shape[1], layer.weight[0].numel()
    return GRAM_COST * positions * (fan_in + outputs) < fan_in * outputs


def _gram_norms2(layer: _ConvNd, a: Tensor, d: Tensor, padding: tuple[int, ...], bias: bool) -> Tensor:
    """⟨u_iᵀu_i + 1, d_iᵀd_i⟩ over the unfolded input u_i, the 1 being the bias."""
    kernel, dilation, stride = tuple(layer.weight.shape[2:]), layer.dilation, layer.stride
    if a.ndim == 3:
        a, kernel, dilation, padding, stride = a.unsqueeze(2), (1, *kernel), (1, *dilation), (0, *padding), (1, *stride)
    positions = d[0, 0].numel()
    parts = []
    for span in spans(len(d), positions * max(positions, layer.weight[0].numel())):
        u = F.unfold(a[span], kernel, dilation, padding, stride)
        gram, columns = torch.bmm(u.mT, u), d[span].flatten(2)
        parts.append((gram.add_(1) if bias else gram).mul_(torch.bmm(columns.mT, columns)).sum((1, 2)))
    return torch.cat(parts)


def _formed_norms2(layer: _ConvNd, a: Tensor, d: Tensor, padding: tuple[int, ...]) -> Tensor:
    return torch.cat([row_norms2(gradients) for gradients in formed_weights(layer, a, d, padding)])


def formed_weights(layer: _ConvNd, a: Tensor, d: Tensor, padding: tuple[int, ...]) -> Iterator[Tensor]:
    """The weight gradients of a few samples formed by the framework's own weight-gradient kernel.

    The samples are laid out as groups of one convolution: there is no unfolding and no sum over samples.

    Args:
        layer: the layer.
        a: input, as `checked` and `padded` give it.
        d: gradient at the output, in the same precision.
        padding: zeros still to be added to the input.

    Yields:
        Shape (n, output channels, fan-in).
    """
    kernel = layer.weight.shape
    for span in spans(len(a), layer.weight.numel()):
        inputs, outputs = a[span], d[span]
        n = len(inputs)
        gradients: Tensor = torch.ops.aten.convolution_backward(
            outputs.reshape(1, n * outputs.shape[1], *outputs.shape[2:]),
            inputs.reshape(1, n * inputs.shape[1], *inputs.shape[2:]),
            a.new_empty(1).expand(n * kernel[0], *kernel[1:]),  # only its shape is looked at
            None,
            layer.stride,
            padding,
            layer.dilation,
            False,
            (0,) * len(padding),
            n * layer.groups,
            [False, True, False],
        )[1]
        yield gradients.reshape(n, kernel[0], -1)


def keep_with_size(layer: _ConvTransposeNd, inputs: tuple[Any, ...], output: Tensor) -> Snapshot:
    """The input, and the size of the output, which a call may choose."""
    return inputs[0].detach(), output.shape[2:]


def _transposed(layer: _ConvTransposeNd, kept: Snapshot, weight: Tensor, bias: Tensor | None) -> Tensor:
    a, size = kept
    sides = zip(size, a.shape[2:], layer.weight.shape[2:], layer.stride, layer.padding, layer.dilation, strict=True)
    extra = [n - ((m - 1) * s - 2 * int(p) + t * (k - 1) + 1) for n, m, k, s, p, t in sides]
    transposed: Callable[..., Tensor] = TRANSPOSED[len(size)]
    return transposed(a, weight, bias, layer.stride, layer.padding, extra, layer.groups, layer.dilation)


CONVOLUTION = Rule(keep_input, convolution_norms2, lambda layer, kept, w, b: layer._conv_forward(kept[0], w, b))
TRANSPOSED_CONVOLUTION = Rule(keep_with_size, transposed_norms2, _transposed)
