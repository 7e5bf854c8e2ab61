"""Per-example squared gradient norms where one parameter is used in more than one place: cross terms included."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from ...errors import UnsupportedError
from ..gradient_norm import row_norms2
from .embedding import EMBEDDING
from .linear import LINEAR
from .rule import spans, widened
from .uses import LayerUse, ParamUse, Slot


def norms2_of(uses: Iterable[ParamUse]) -> list[Tensor]:
    """‖Σ c_i‖² over the uses of each parameter, in parts of shape (b,) to be added up.

    Args:
        uses: every use of every trainable parameter in one pass.

    Raises:
        UnsupportedError: two uses take different parts of one parameter that overlap.
    """
    return [
        group[0].norms2() if len(group) == 1 else joint_norms2(group)
        for group in joined([part for use in uses for part in use.parts()])
    ]


def formed(uses: Sequence[ParamUse]) -> Iterator[dict[Slot, Tensor]]:
    """Σ c_i over uses of the same parameters, of a few samples at a time: shape (n, *rows of the parameter) each."""
    floats = sum(slot.parameter.numel() for slot in {slot for use in uses for slot in use.slots().values()})
    for span in spans(uses[0].samples, floats):
        sums: dict[Slot, Tensor] = {}
        for use in uses:
            for slot, gradient in use.gradients(span).items():
                sums[slot] = sums[slot] + gradient if slot in sums else gradient
        yield sums


def formed_norms2(uses: Sequence[ParamUse]) -> Tensor:
    """‖Σ c_i‖² over uses of the same parameters, by forming the gradients of a few samples at a time."""
    return torch.cat([torch.stack([row_norms2(g) for g in sums.values()]).sum(0) for sums in formed(uses)])


def joined(uses: Sequence[ParamUse]) -> list[list[ParamUse]]:
    """Uses put together that have a parameter in common, over any number of steps."""
    group_of: dict[Slot, list[ParamUse]] = {}
    for use in uses:
        together: list[ParamUse] = []
        slots = list(use.slots().values())
        for group in {id(group_of[slot]): group_of[slot] for slot in slots if slot in group_of}.values():
            together += group
        together.append(use)
        for slot in (slot for one in together for slot in one.slots().values()):
            group_of[slot] = together
    ranges: defaultdict[Tensor, list[tuple[int, int]]] = defaultdict(list)
    for parameter, start, stop in sorted(group_of, key=lambda slot: slot.start):
        if ranges[parameter] and start < ranges[parameter][-1][1]:
            raise UnsupportedError("rows of one parameter are used together in one place and apart in another")
        ranges[parameter].append((start, stop))
    return list({id(group): group for group in group_of.values()}.values())


def merged(uses: Sequence[ParamUse]) -> list[ParamUse]:
    """Uses of one linear layer, or of one embedding, as one: they are further positions of one another."""
    layers = [use for use in uses if isinstance(use, LayerUse)]
    linear = [use for use in layers if use.rule is LINEAR]
    tables = [use for use in layers if use.rule is EMBEDDING]
    alike = len({tuple(use.slots().values()) for use in linear}) <= 1 and len({use.layer for use in tables}) <= 1
    if len(linear) + len(tables) < len(uses) or not alike:
        return list(uses)
    return [_stacked(kind) for kind in (linear, tables) if kind]


def joint_norms2(uses: Sequence[ParamUse]) -> Tensor:
    """‖Σ c_i‖² over uses of the same parameters, shape (b,)."""
    match merged(uses):
        case [use]:
            return use.norms2()
        case [LayerUse() as output, LayerUse() as table] if output.rule is LINEAR and table.rule is EMBEDDING:
            return output.norms2() + table.norms2() + 2 * tied_products(output, table)
    return formed_norms2(uses)


def tied_products(output: LayerUse, table: LayerUse) -> Tensor:
    """⟨c_i of a linear layer, c_i of an embedding⟩ for a weight that both use, vocabulary first.

    The linear layer gives Σ_t d_it a_itᵀ and the embedding adds e_is to the row of its token k_is, so that the product
    is Σ_ts d_it[k_is] ⟨a_it, e_is⟩.

    Args:
        output: use of the linear layer: a, shape (b, T, q), and d, shape (b, T, vocabulary).
        table: use of the embedding: k, shape (b, S), and e, shape (b, S, q).

    Returns:
        Shape (b,).
    """
    a, d = widened(output.kept[0], output.d)
    b = len(a)
    ids = table.kept[0].reshape(b, -1)
    e = table.d.to(d.dtype).reshape(b, ids.shape[1], -1)
    padding = table.layer.padding_idx if isinstance(table.layer, nn.Embedding) else None
    if padding is not None:
        e = e.masked_fill((ids == padding).unsqueeze(-1), 0)
    a, d = a.reshape(b, -1, a.shape[-1]), d.reshape(b, -1, d.shape[-1])
    parts = []
    for span in spans(b, a.shape[1] * ids.shape[1]):
        seen = d[span].gather(2, ids[span].unsqueeze(1).expand(-1, a.shape[1], -1))
        parts.append(torch.bmm(a[span], e[span].mT).mul_(seen).sum((1, 2)))
    return torch.cat(parts)


def _stacked(uses: Sequence[LayerUse]) -> LayerUse:
    """Several uses of one linear layer or embedding as one with all their positions."""
    first = uses[0]
    if len(uses) == 1:
        return first
    feature = 1 if first.rule is LINEAR else 0
    inputs = torch.cat([_positions(use.kept[0], feature) for use in uses], 1)
    return LayerUse(first.layer, first.rule, (inputs,), torch.cat([_positions(use.d, 1) for use in uses], 1))


def _positions(value: Tensor, features: int) -> Tensor:
    """(b, ..., features) as (b, T, features), or (b, ...) as (b, T)."""
    return value.reshape(len(value), -1, *value.shape[value.ndim - features :])
