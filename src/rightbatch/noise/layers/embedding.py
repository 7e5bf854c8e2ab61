"""Per-example squared gradient norms of embedding tables."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import UnsupportedError
from ..gradient_norm import row_norms2
from .rule import Rule, Snapshot, keep_input


def embedding_norms2(layer: nn.Embedding, kept: Snapshot, d: Tensor) -> Tensor:
    """Per-example squared gradient norms of an embedding table: Σ_v ‖Σ_{t: id_it = v} d_it‖².

    Equal tokens of one sample share a row of a table with b·T rows, which the framework's own kernel fills.

    Args:
        layer: the embedding.
        kept: token ids, shape (b, ...).
        d: gradient at the output, shape (b, ..., dimensions).
    """
    return row_norms2(token_rows(layer, kept, d)[1])


def token_rows(layer: nn.Embedding, kept: Snapshot, d: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens of each sample in order, shape (b, T), and their rows of its gradient, shape (b, T, dimensions).

    Of equal tokens the first has the row; those of the others are zero.
    """
    ids, d = kept[0], d.to(torch.promote_types(d.dtype, torch.float32))
    if ids.ndim < 1:
        raise UnsupportedError("its input is a single token id, without a dimension for the samples")
    b = len(ids)
    ids, d = ids.reshape(b, -1), d.reshape(b, ids[0].numel(), -1)
    if layer.padding_idx is not None:  # its row receives no gradient
        d = d.masked_fill((ids == layer.padding_idx).unsqueeze(-1), 0)
    positions = ids.shape[1]
    if positions == 1:
        return ids, d
    # position of the token among the sample's sorted ones: the same for equal tokens, and below T
    tokens = ids.sort(1).values
    rows = torch.searchsorted(tokens, ids.contiguous())
    rows = rows.add_(torch.arange(b, device=ids.device).mul_(positions).unsqueeze(1))
    table = torch.ops.aten.embedding_dense_backward(d, rows, b * positions, -1, False)
    return tokens, table.view(b, positions, -1)


def _rows(layer: nn.Embedding, kept: Snapshot, weight: Tensor, bias: Tensor | None) -> Tensor:
    rows = F.embedding(kept[0], weight)
    if layer.padding_idx is None:
        return rows
    return rows.masked_fill((kept[0] == layer.padding_idx).unsqueeze(-1), 0)


def keep_ids(layer: nn.EmbeddingBag, inputs: tuple[Any, ...], output: Tensor) -> Snapshot:
    """The token ids and the weight of each in its bag."""
    ids = inputs[0]
    if ids.ndim != 2:
        raise UnsupportedError("was called with offsets: pass ids of shape (samples, tokens), padded with padding_idx")
    if layer.mode == "max":
        raise UnsupportedError("takes the maximum, which is not linear in the table; mode 'sum' or 'mean' is")
    given = inputs[2] if len(inputs) > 2 else None
    weights = torch.ones_like(ids, dtype=output.dtype) if given is None else given.detach()
    if layer.padding_idx is not None:
        weights = weights.masked_fill(ids == layer.padding_idx, 0)
    if layer.mode == "mean":
        weights = weights / weights.sum(1, keepdim=True).clamp(min=1)
    return ids, weights


def embedding_bag_norms2(layer: nn.EmbeddingBag, kept: Snapshot, d: Tensor) -> Tensor:
    """Per-example squared gradient norms of an embedding bag: ‖d_i‖² Σ_v (Σ_{t: id_it = v} w_it)².

    Args:
        layer: the bag.
        kept: token ids and their weights w, shape (b, T).
        d: gradient at the output, shape (b, dimensions).
    """
    ids, weights = kept
    d = d.to(torch.promote_types(d.dtype, torch.float32))
    rows = torch.searchsorted(ids.sort(1).values, ids.contiguous())
    return row_norms2(d) * row_norms2(torch.zeros_like(ids, dtype=d.dtype).scatter_add_(1, rows, weights.to(d.dtype)))


def _bag(layer: nn.EmbeddingBag, kept: Snapshot, weight: Tensor, bias: Tensor | None) -> Tensor:
    ids, weights = kept
    return torch.bmm(weights.to(weight.dtype).unsqueeze(1), F.embedding(ids, weight)).squeeze(1)


EMBEDDING = Rule(keep_input, embedding_norms2, _rows)
EMBEDDING_BAG = Rule(keep_ids, embedding_bag_norms2, _bag)
