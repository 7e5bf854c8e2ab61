"""Per-example squared gradient norms of linear and bilinear layers and of PReLU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import UnsupportedError
from ..gradient_norm import row_norms2
from .rule import Rule, Snapshot, keep_both, keep_input, spans, trains, widened


def linear_norms2(layer: nn.Linear, kept: Snapshot, d: Tensor) -> Tensor:
    """Per-example squared gradient norms of a linear layer.

    Without positions ‖c_i‖² = ‖d_i‖² (‖a_i‖² + 1), the 1 being the bias. With T positions the gradient is d_iᵀ a_i and
    either it is formed, at T·p·q multiplications, or ‖d_iᵀ a_i‖² = ⟨a_i a_iᵀ + 1, d_i d_iᵀ⟩ is used, at T²(p + q).

    | symbol | argument | meaning |
    |---|---|---|
    | a_i | kept[0] | input, shape (b, q) or (b, ..., q) |
    | d_i | d | gradient at the output, shape (b, p) or (b, ..., p) |

    Reference: Goodfellow, "Efficient per-example gradient computations" (2015); Li, Tramèr, Liang, Hashimoto, "Large
    language models can be strong differentially private learners" (2022), section 4, for the form with positions.
    """
    a, d = widened(kept[0], d)
    if a.ndim < 2:
        raise UnsupportedError(f"its input has shape {tuple(a.shape)}, without a dimension for the samples")
    weight, bias = trains(layer.weight), trains(layer.bias)
    if a.ndim == 2:
        norms2 = row_norms2(d)
        if not weight:
            return norms2
        return torch.addcmul(norms2, norms2, row_norms2(a)) if bias else norms2.mul_(row_norms2(a))
    b, q, p = len(a), a.shape[-1], d.shape[-1]
    a, d = a.reshape(b, -1, q), d.reshape(b, -1, p)
    positions = a.shape[1]
    if not weight:
        return row_norms2(d.sum(1))
    if positions * (p + q) < p * q:
        parts = []
        for span in spans(b, positions * positions):
            gram = torch.bmm(a[span], a[span].mT)
            parts.append((gram.add_(1) if bias else gram).mul_(torch.bmm(d[span], d[span].mT)).sum((1, 2)))
        return torch.cat(parts)
    norms2 = torch.cat([row_norms2(torch.bmm(d[span].mT, a[span])) for span in spans(b, p * q)])
    return norms2.add_(row_norms2(d.sum(1))) if bias else norms2


def bilinear_norms2(layer: nn.Bilinear, kept: Snapshot, d: Tensor) -> Tensor:
    """Per-example squared gradient norms of a bilinear layer: Σ_ts (⟨a_t, a_s⟩ ⟨e_t, e_s⟩ + 1) ⟨d_t, d_s⟩.

    Args:
        layer: the layer.
        kept: both inputs a and e, shapes (b, ..., q) and (b, ..., r); t and s run over the positions.
        d: gradient at the output, shape (b, ..., p).
    """
    a, d = widened(kept[0], d)
    e = kept[1].to(a.dtype)
    if a.ndim < 2:
        raise UnsupportedError(f"its input has shape {tuple(a.shape)}, without a dimension for the samples")
    a, e, d = (t.reshape(len(t), -1, t.shape[-1]) for t in (a, e, d))
    parts = []
    for span in spans(len(a), a.shape[1] ** 2):
        gram = torch.bmm(d[span], d[span].mT)
        inputs = torch.bmm(a[span], a[span].mT).mul_(torch.bmm(e[span], e[span].mT))
        if not trains(layer.weight):
            inputs.zero_()
        parts.append((inputs.add_(1) if trains(layer.bias) else inputs).mul_(gram).sum((1, 2)))
    return torch.cat(parts)


def prelu_norms2(layer: nn.PReLU, kept: Snapshot, d: Tensor) -> Tensor:
    """‖Σ_t min(a_it, 0) d_it‖² for each sample, summed within each channel that has a slope of its own.

    Args:
        layer: the layer.
        kept: input, shape (b, channels, ...).
        d: gradient at the output, of the input's shape.
    """
    a, d = widened(kept[0], d)
    slopes = layer.num_parameters
    return row_norms2(a.clamp(max=0).mul_(d).reshape(len(a), slopes, -1).sum(2))


def _slopes(layer: nn.PReLU, kept: Snapshot, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The part of the output that is linear in the slopes."""
    a: Tensor = kept[0].clamp(max=0)
    return a * (weight if layer.num_parameters == 1 else weight.view(-1, *(1,) * (a.ndim - 2)))


def _bilinear(layer: nn.Bilinear, kept: Snapshot, weight: Tensor, bias: Tensor | None) -> Tensor:
    # torch's own function has no form for many samples at once
    output = torch.einsum("...q,pqr,...r->...p", kept[0], weight, kept[1])
    return output if bias is None else output + bias


LINEAR = Rule(keep_input, linear_norms2, lambda layer, kept, weight, bias: F.linear(kept[0], weight, bias))
BILINEAR = Rule(keep_both, bilinear_norms2, _bilinear)
PRELU = Rule(keep_input, prelu_norms2, _slopes)
