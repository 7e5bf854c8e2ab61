"""Estimates of per-example gradient norms by random signs, where the exact norms of a layer are dear.

The gradient of sample i is a matrix c_i = Σ_t d_it a_itᵀ over positions t. For random signs e, ‖c_i e‖² has the mean
‖c_i‖², and c_i e = Σ_t d_it (a_it·e) takes no more than one reading of the input and one of the output gradient. Every
sample has signs of its own, so that the errors of a batch average out.

| symbol | argument | meaning |
|---|---|---|
| a_it | kept[0] | input at position t, the bias's 1 appended |
| d_it | d | gradient at the output |
| e | signs | ±1, independent for every sample and probe |
| k | probes | random projections averaged |

The relative standard deviation of one sample's estimate is at most sqrt(2/k), and of the sum over b samples about
sqrt(2/(k r b)), r = ‖c‖_F⁴/‖cᵀc‖_F² the effective rank of the gradients.

Reference: Hutchinson, "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines"
(1990), applied to tr(c_iᵀ c_i), one sample at a time.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .convolution import CONVOLUTION, TRANSPOSED_CONVOLUTION
from .convolution_projections import convolution_projection, transposed_projection
from .embedding import EMBEDDING, embedding_norms2
from .linear import LINEAR, linear_norms2
from .rule import Rule, Snapshot, trains, widened
from .signs import BLOCK_SIGNS, Signs, projected_norms2

# (layer, kept, d, signs, probes) -> unbiased estimates of ‖c_i‖² over the layer's trainable parameters, shape (b,)
RandomProjection = Callable[[Any, Snapshot, Tensor, Signs, int], Tensor]


def linear_projection(layer: nn.Linear, kept: Snapshot, d: Tensor, signs: Signs, probes: int) -> Tensor:
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
        return projected_norms2(torch.bmm(projected, d), probes)
    projected = torch.bmm(signs.draw((b, probes, p), d), d.mT)
    norms2 = projected_norms2(torch.bmm(projected, a), probes)
    return norms2.add_(projected_norms2(projected.sum(2), probes)) if bias else norms2


def embedding_projection(layer: nn.Embedding, kept: Snapshot, d: Tensor, signs: Signs, probes: int) -> Tensor:
    """Unbiased estimates of the per-example squared gradient norms of an embedding table: ‖Σ_t e_i[id_it] d_it‖².

    Every token has a sign, other ones in every sample as far as the pool reaches: with a large vocabulary the signs of
    one sample are those of another, moved along.

    Args:
        layer: the embedding.
        kept: token ids, shape (b, ...).
        d: gradient at the output, shape (b, ..., dimensions).
        signs: where the signs come from.
        probes: k.

    Returns:
        Shape (b,).
    """
    ids = kept[0]
    if ids.ndim < 1 or ids.numel() == len(ids):
        return embedding_norms2(layer, kept, d)
    b, tokens = len(ids), layer.num_embeddings
    ids, d = ids.reshape(b, -1), d.to(torch.promote_types(d.dtype, torch.float32)).reshape(b, ids[0].numel(), -1)
    step = max(1, min(tokens, (BLOCK_SIGNS // 2 - tokens) // b))
    table = signs.draw((probes, tokens + (b - 1) * step), d)
    e = table[:, ids + torch.arange(0, b * step, step, device=ids.device).unsqueeze(1)].transpose(0, 1)
    if layer.padding_idx is not None:  # its row receives no gradient
        e = e.masked_fill((ids == layer.padding_idx).unsqueeze(1), 0)
    return projected_norms2(torch.bmm(e, d), probes)


RANDOM_PROJECTIONS: dict[Rule, RandomProjection] = {
    LINEAR: linear_projection,
    CONVOLUTION: convolution_projection,
    TRANSPOSED_CONVOLUTION: transposed_projection,
    EMBEDDING: embedding_projection,
}
