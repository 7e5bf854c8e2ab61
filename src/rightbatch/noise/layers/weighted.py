"""Per-example squared gradient norms weighted entry by entry, as an optimizer's preconditioner weights them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..gradient_norm import row_norms2
from .convolution import CONVOLUTION, checked, formed_weights, padded
from .embedding import EMBEDDING, EMBEDDING_BAG, token_rows
from .linear import LINEAR
from .normalization import CHANNEL_NORM, GROUP_NORM, LAYER_NORM, RMS_NORM
from .rule import Rule, spans, widened
from .sharing import formed, merged
from .uses import LayerUse, ParamUse, Slot

Squares = Mapping[Tensor, Tensor]


def weighted_norms2(use: ParamUse, squares: Squares) -> Tensor:
    """‖P c_i‖² of one use, exactly.

    For a linear layer without positions it is Σ_k d_ik² Σ_l P²_kl a_il², one matrix product; the gradients of
    embeddings stay the few rows they are; of other layers the gradients of a few samples are formed at a time.

    | symbol | argument | meaning |
    |---|---|---|
    | c_i, a_i, d_i | use | contribution of sample i, the layer's input and output gradient |
    | P² | squares | of each parameter, of its shape; 1 for parameters not in it |

    Returns:
        Shape (b,).
    """
    return torch.stack(list(slot_norms2([use], squares).values())).sum(0)


def slot_norms2(uses: Sequence[ParamUse], squares: Squares) -> dict[Slot, Tensor]:
    """‖P Σ c_i‖² over uses that share parameters, for each parameter on its own.

    Args:
        uses: all uses of some parameters, as `joined` puts them together.
        squares: P² of each parameter; 1 for parameters not in it.

    Returns:
        Shape (b,) for each parameter, or part of one, that the uses train.
    """
    uses = merged(uses)
    only = uses[0]
    if len(uses) == 1 and isinstance(only, LayerUse) and only.rule in DIRECT:
        return DIRECT[only.rule](only, squares)
    found: dict[Slot, list[Tensor]] = {}
    for gradients in formed(uses):
        for slot, gradient in gradients.items():
            found.setdefault(slot, []).append(_norms2(gradient, _part(squares, slot, gradient.dtype)))
    return {slot: torch.cat(parts) for slot, parts in found.items()}


def _part(squares: Squares, slot: Slot, dtype: torch.dtype) -> Tensor | None:
    """P² of the rows in question."""
    square = squares.get(slot.parameter)
    return None if square is None else slot.rows(square).to(dtype)


def _norms2(rows: Tensor, square: Tensor | None) -> Tensor:
    """Σ P² g² of each row; the rows may be overwritten."""
    if square is None:
        return row_norms2(rows)
    return rows.reshape(len(rows), -1).square_() @ square.reshape(-1)


def _linear(use: LayerUse, squares: Squares) -> dict[Slot, Tensor]:
    a, d = widened(use.kept[0], use.d)
    found = {}
    for name, slot in use.slots().items():
        square = _part(squares, slot, d.dtype)
        if name == "bias":
            found[slot] = _norms2(d.reshape(len(d), -1, d.shape[-1]).sum(1), square)
        elif a.ndim > 2:
            found[slot] = _with_positions(a, d, square)
        elif square is None:
            found[slot] = row_norms2(d) * row_norms2(a)
        else:
            found[slot] = (d.square() @ square).mul_(a.square()).sum(1)
    return found


def _with_positions(a: Tensor, d: Tensor, square: Tensor | None) -> Tensor:
    b, q, p = len(a), a.shape[-1], d.shape[-1]
    a, d = a.reshape(b, -1, q), d.reshape(b, -1, p)
    return torch.cat([_norms2(torch.bmm(d[span].mT, a[span]), square) for span in spans(b, p * q)])


def _convolution(use: LayerUse, squares: Squares) -> dict[Slot, Tensor]:
    layer = use.layer
    assert isinstance(layer, _ConvNd)
    a, d = checked(layer, use.kept, use.d)
    a, padding = padded(layer, a)
    found = {}
    for name, slot in use.slots().items():
        square = _part(squares, slot, d.dtype)
        gradients = [d.flatten(2).sum(2)] if name == "bias" else formed_weights(layer, a, d, padding)
        found[slot] = torch.cat([_norms2(gradient, square) for gradient in gradients])
    return found


def _normalization(use: LayerUse, squares: Squares) -> dict[Slot, Tensor]:
    """The scale's gradient is Σ_t x̂_it ⊙ d_it; x̂ is the output at scale 1 and shift 0."""
    layer: Any = use.layer
    a, d = widened(use.kept[0], use.d)
    ones = torch.ones_like(layer.weight, dtype=a.dtype)
    found = {}
    for name, slot in use.slots().items():
        rows = d if name == "bias" else use.rule.apply(layer, (a, *use.kept[1:]), ones, None) * d
        if isinstance(layer, nn.LayerNorm | nn.RMSNorm):  # features last
            rows = rows.reshape(len(rows), -1, ones.numel()).sum(1)
        else:
            rows = rows.flatten(2).sum(2) if rows.ndim > 2 else rows.clone()
        found[slot] = _norms2(rows, _part(squares, slot, d.dtype))
    return found


def _embedding(use: LayerUse, squares: Squares) -> dict[Slot, Tensor]:
    """Σ_v Σ_l P²_vl (Σ_{t: id_it = v} d_itl)², over the tokens v that a sample has."""
    layer = use.layer
    assert isinstance(layer, nn.Embedding)
    (slot,) = use.slots().values()
    tokens, rows = token_rows(layer, use.kept, use.d)
    square = _part(squares, slot, rows.dtype)
    return {slot: row_norms2(rows) if square is None else (rows.square() * square[tokens]).sum((1, 2))}


def _bag(use: LayerUse, squares: Squares) -> dict[Slot, Tensor]:
    """Σ_v w_iv² Σ_l P²_vl d_il², w_iv the summed weight of token v in the bag of sample i."""
    ids, weights = use.kept
    (slot,) = use.slots().values()
    d = use.d.to(torch.promote_types(use.d.dtype, torch.float32))
    tokens = ids.sort(1).values
    shares = torch.zeros_like(ids, dtype=d.dtype)
    shares = shares.scatter_add_(1, torch.searchsorted(tokens, ids.contiguous()), weights.to(d.dtype)).square_()
    square = _part(squares, slot, d.dtype)
    if square is None:
        return {slot: row_norms2(d) * shares.sum(1)}
    return {slot: torch.bmm(square[tokens], d.square().unsqueeze(-1)).squeeze(-1).mul_(shares).sum(1)}


DIRECT: dict[Rule, Callable[[LayerUse, Squares], dict[Slot, Tensor]]] = {
    LINEAR: _linear,
    EMBEDDING: _embedding,
    EMBEDDING_BAG: _bag,
    CONVOLUTION: _convolution,
    LAYER_NORM: _normalization,
    RMS_NORM: _normalization,
    GROUP_NORM: _normalization,
    CHANNEL_NORM: _normalization,
}
