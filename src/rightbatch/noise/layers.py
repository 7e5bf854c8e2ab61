"""What each supported layer contributes to the per-example gradients, from its input and its output gradient alone.

Every rule here is exact. A layer is linear in its parameters, so that the gradient of example i is a product of its
input a_i and its output gradient d_i; the norm of the product is had without forming it, or with a few examples
formed at once.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UnsupportedError
from .gradient_norm import row_norms2, sum_dtype

Kept = tuple[Tensor, ...]
CHUNK_FLOATS = 1 << 20
FULL_PRECISION = (torch.float32, torch.float64)


class Rule(NamedTuple):
    """The rule of one layer type.

    Args:
        keep: (input, autograd node of the output) -> what the backward pass needs, the input first; called in the
        forward. norms2: (layer, kept, d) -> ‖c_i‖² over the layer's trainable parameters, shape (b,). apply: (layer,
        input, weight, bias) -> the layer's output with those parameters in place of its own.
    """

    keep: Callable[[Tensor, Any], Kept]
    norms2: Callable[[Any, Kept, Tensor], Tensor]
    apply: Callable[[Any, Tensor, Tensor, Tensor | None], Tensor]


def trains(parameter: Tensor | None) -> bool:
    """Whether a parameter exists and is not frozen."""
    return parameter is not None and parameter.requires_grad


def keep_input(value: Tensor, node: object) -> Kept:
    """The input alone."""
    return (value.detach(),)


def widened(value: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Both tensors in one precision, float32 at least: products and squares of half-precision numbers overflow."""
    if value.dtype is gradient.dtype and value.dtype in FULL_PRECISION:
        return value, gradient
    wide = torch.promote_types(torch.promote_types(value.dtype, gradient.dtype), torch.float32)
    return value.to(wide), gradient.to(wide)


def spans(examples: int, floats_each: int) -> Iterator[slice]:
    """Cut a batch so that `floats_each` intermediate numbers per example stay within the cache."""
    size = max(1, CHUNK_FLOATS // max(1, floats_each))
    return (slice(start, start + size) for start in range(0, examples, size))


def products(layer: nn.Module, rule: Rule, kept: Kept, d: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """⟨c_i, G⟩ for every example, without per-example gradients.

    The layer is linear in its parameters θ, so Σ_t d_it · layer(a_it; θ = G) is the inner product of c_i with G.

    Args:
        layer: the layer.
        rule: its rule.
        kept: what its rule kept.
        d: gradient at its output, shape (b, ...).
        weight: G of its weight, None if frozen.
        bias: G of its bias, None if frozen or absent.

    Returns:
        Shape (b,).
    """
    a = kept[0]
    own: Tensor = layer.weight  # type: ignore[assignment]
    weight = torch.zeros_like(own) if weight is None else weight
    a = a.to(weight.dtype) if a.is_floating_point() else a
    output = rule.apply(layer, a, weight.detach(), None if bias is None else bias.detach())
    return (output * d).flatten(1).sum(1, dtype=sum_dtype(d.device))


def linear_norms2(layer: nn.Linear, kept: Kept, d: Tensor) -> Tensor:
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
        raise UnsupportedError(f"its input has shape {tuple(a.shape)}, without a dimension for the examples")
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


def embedding_norms2(layer: nn.Embedding, kept: Kept, d: Tensor) -> Tensor:
    """Per-example squared gradient norms of an embedding table: Σ_v ‖Σ_{t: id_it = v} d_it‖².

    Equal tokens of one example share a row of a table with b·T rows, which the framework's own kernel fills.

    Args:
        layer: the embedding.
        kept: token ids, shape (b, ...).
        d: gradient at the output, shape (b, ..., dimensions).
    """
    ids, d = kept[0], d.to(torch.promote_types(d.dtype, torch.float32))
    if ids.ndim < 1:
        raise UnsupportedError("its input is a single token id, without a dimension for the examples")
    b = len(ids)
    ids, d = ids.reshape(b, -1), d.reshape(b, ids[0].numel(), -1)
    if layer.padding_idx is not None:  # its row receives no gradient
        d = d.masked_fill((ids == layer.padding_idx).unsqueeze(-1), 0)
    positions = ids.shape[1]
    if positions == 1:
        return row_norms2(d)
    # position of the token among the example's sorted ones: the same for equal tokens, and below T
    rows = torch.searchsorted(ids.sort(1).values, ids)
    rows = rows.add_(torch.arange(b, device=ids.device).mul_(positions).unsqueeze(1))
    table = torch.ops.aten.embedding_dense_backward(d, rows, b * positions, -1, False)
    return row_norms2(table.view(b, positions, -1))


LINEAR = Rule(keep_input, linear_norms2, lambda layer, a, weight, bias: F.linear(a, weight, bias))
EMBEDDING = Rule(keep_input, embedding_norms2, lambda layer, a, weight, bias: F.embedding(a, weight))
