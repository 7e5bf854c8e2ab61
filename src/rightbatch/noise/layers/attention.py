"""The projections inside `nn.MultiheadAttention`, whose parameters act without a layer of their own being called."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.autograd.graph import Node

from ...errors import UnsupportedError
from ..graph import Parents, between, nodes_of
from .rule import trains
from .uses import LayerUse, Projection, projected

# What lies between a weight and the product it is in.
ON_THE_WAY = ("TBackward0", "TransposeBackward0", "SplitWithSizesBackward0", "SplitBackward0", "ToCopyBackward0")
INPUT_OF = {"AddmmBackward0": "_saved_mat1", "MmBackward0": "_saved_self"}


class Site(NamedTuple):
    """One matrix product of a pass.

    Args:
        node: its node, whose gradient has shape (T·b, p), positions first.
        weight: the parameter it multiplies by, or by some rows of.
        start: the first of these rows.
        bias: the parameter added, if any.
        bias_start: the first of its rows.
        a: its input, shape (T·b, q).
    """

    node: Node
    weight: Tensor
    start: int
    bias: Tensor | None
    bias_start: int
    a: Tensor

    def use(self, samples: int, d: Tensor) -> LayerUse:
        """What the product contributed, from the gradient at its output."""
        p = d.shape[1]
        a, d = (t.view(-1, samples, t.shape[1]).transpose(0, 1) for t in (self.a, d))
        return projected(Projection(self.weight, self.bias, (self.start, self.start + p), self.bias_start), a, d)


def sites(layer: nn.MultiheadAttention, inputs: Any, outputs: Any, samples: int) -> list[Site]:
    """Find the matrix products of one call, between its output and its inputs.

    The graph is walked because the module multiplies by its parameters itself; attention weights, dropout and masks are
    then those of the pass and need no second computation.

    Args:
        layer: the module.
        inputs: what it was called with.
        outputs: what it returned.
        samples: b.

    Raises:
        UnsupportedError: the input is not three-dimensional, or a product was not found.
    """
    output: Tensor = outputs[0]
    if output.ndim != 3:
        raise UnsupportedError(f"its output has shape {tuple(output.shape)}, without a dimension for the samples")
    if output.shape[0 if layer.batch_first else 1] != samples:
        order = "(samples, positions, features)" if layer.batch_first else "(positions, samples, features)"
        raise UnsupportedError(f"its output has shape {tuple(output.shape)}; with {samples} samples {order} is needed")
    parents = between(nodes_of(output), nodes_of(inputs))
    out: nn.Linear = layer.out_proj
    leaves = {variable: node for node in parents if (variable := getattr(node, "variable", None)) is not None}
    width = layer.embed_dim
    weights: list[tuple[Tensor | None, Tensor | None, int]] = [
        (out.weight, out.bias, 0),
        (layer.in_proj_weight, layer.in_proj_bias, 0),
        (layer.q_proj_weight, layer.in_proj_bias, 0),
        (layer.k_proj_weight, layer.in_proj_bias, width),
        (layer.v_proj_weight, layer.in_proj_bias, 2 * width),
    ]
    found = []
    for weight, bias, bias_start in weights:
        if weight is None or not weight.requires_grad:
            continue
        products = list(_products(leaves[weight], parents, 0)) if weight in leaves else []
        if not products:
            raise UnsupportedError("the product with one of its weights was not found in the graph of its output")
        for node, chunk in products:
            a = getattr(node, INPUT_OF[node.name()]).detach()
            if a.ndim != 2 or len(a) % samples:
                raise UnsupportedError(f"its input has {len(a)} rows, which {samples} samples do not divide")
            # rows come in chunks of the module's width, the last of which may be two together
            found.append(Site(node, weight, chunk * width, bias, bias_start + chunk * width, a))
    return found


def _products(node: Node, parents: Parents, chunk: int) -> Iterator[tuple[Node, int]]:
    """The matrix products that use what a node makes, with the number of the chunk they use."""
    for user, result in parents.get(node, []):
        if user.name() in INPUT_OF:
            yield user, chunk + (result if node.name().startswith("Split") else 0)
        elif user.name() in ON_THE_WAY:
            yield from _products(user, parents, chunk + (result if node.name().startswith("Split") else 0))


def projects(layer: nn.Module) -> bool:
    """Whether a module is an attention whose products can be found so; one with extra keys or values is not."""
    return type(layer) is nn.MultiheadAttention and layer.bias_k is None and layer.bias_v is None


def frozen_apart(layer: nn.MultiheadAttention) -> bool:
    """Whether a bias is trained whose weight is not."""
    weights = [layer.in_proj_weight, layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight]
    inside = trains(layer.in_proj_bias) and not all(trains(weight) for weight in weights if weight is not None)
    return inside or (trains(layer.out_proj.bias) and not trains(layer.out_proj.weight))
