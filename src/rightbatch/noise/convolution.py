"""Per-example squared gradient norms of two-dimensional convolutions."""

from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UnsupportedError
from .gradient_norm import row_norms2
from .layers import Kept, Rule, keep_input, spans, trains, widened

# A Gram entry costs about 1.5 times an entry of the formed gradient, by timing at 64 to 256 channels and maps of 4²
# to 14².
GRAM_COST = 1.5


def convolution_norms2(layer: nn.Conv2d, kept: Kept, d: Tensor) -> Tensor:
    """Per-example squared gradient norms of a convolution, any stride, padding, dilation and groups.

    Usually the gradients of a few examples are formed by the framework's own weight-gradient kernel, the examples
    laid out as groups of one convolution: there is no unfolding and no sum over examples. Where the output map is
    small against the kernel, ⟨u_iᵀu_i + 1, d_iᵀd_i⟩ over the unfolded input u_i is cheaper.

    | symbol | argument | meaning |
    |---|---|---|
    | a_i | kept[0] | input, shape (b, channels, height, width) |
    | d_i | d | gradient at the output, shape (b, output channels, output height, output width) |

    Returns:
        Shape (b,).
    """
    a, d = widened(kept[0], d)
    if a.ndim != 4:
        raise UnsupportedError(f"its input has shape {tuple(a.shape)}; (examples, channels, height, width) is needed")
    weight, bias = trains(layer.weight), trains(layer.bias)
    if not weight:
        return row_norms2(d.flatten(2).sum(2))
    a, padding = padded(layer, a)
    b, outputs, positions = len(d), d.shape[1], d.shape[2] * d.shape[3]
    fan_in = layer.weight[0].numel()
    if layer.groups == 1 and GRAM_COST * positions * (fan_in + outputs) < fan_in * outputs:
        parts = []
        for span in spans(b, positions * max(positions, fan_in)):
            u = F.unfold(a[span], layer.weight.shape[2:], layer.dilation, padding, layer.stride)
            gram, columns = torch.bmm(u.mT, u), d[span].flatten(2)
            parts.append((gram.add_(1) if bias else gram).mul_(torch.bmm(columns.mT, columns)).sum((1, 2)))
        return torch.cat(parts)
    norms2 = torch.cat([row_norms2(_gradients(layer, a[s], d[s], padding)) for s in spans(b, layer.weight.numel())])
    return norms2.add_(row_norms2(d.flatten(2).sum(2))) if bias else norms2


def padded(layer: nn.Conv2d, a: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """The input and the zero padding still to be added to it, other kinds of padding having been done."""
    if layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
        return a, tuple(layer.padding)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return F.pad(a, list(chain(layer._reversed_padding_repeated_twice)), mode=mode), (0, 0)


def _gradients(layer: nn.Conv2d, a: Tensor, d: Tensor, padding: tuple[int, ...]) -> Tensor:
    """Weight gradients of each example, shape (n, output channels, fan-in)."""
    n, kernel = len(a), layer.weight.shape
    gradients: Tensor = torch.ops.aten.convolution_backward(
        d.reshape(1, n * d.shape[1], *d.shape[2:]),
        a.reshape(1, n * a.shape[1], *a.shape[2:]),
        a.new_empty(1).expand(n * kernel[0], *kernel[1:]),  # only its shape is looked at
        None,
        layer.stride,
        padding,
        layer.dilation,
        False,
        [0, 0],
        n * layer.groups,
        [False, True, False],
    )[1]
    return gradients.reshape(n, kernel[0], -1)


CONVOLUTION = Rule(keep_input, convolution_norms2, lambda layer, a, w, b: layer._conv_forward(a, w, b))
