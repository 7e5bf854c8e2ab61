"""Walks of the autograd graph: where a parameter acts, seen from the loss or from a module's output."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils._pytree import tree_leaves

MARK = "rightbatch: the layers whose output this is, with the nodes of their inputs"

EXAMPLES = "rightbatch: read as the output of a layer with a row for each sample"


def nodes_of(values: object) -> list[Node]:
    """The nodes that made the tensors in a nested structure."""
    return [v.grad_fn for v in tree_leaves(values) if isinstance(v, Tensor) and v.grad_fn is not None]


def maker(output: Tensor) -> Node:
    """The node that made a tensor; of a reshaping the one before it, which in-place operations leave in the graph."""
    base = output._base
    node = output.grad_fn
    if base is not None and base.grad_fn is not None and base.is_contiguous() and output.is_contiguous():
        node = base.grad_fn if base.numel() == output.numel() else node
    assert node is not None
    return node


def _metadata(node: Node) -> dict[str, dict[int, list[Node]]]:
    found: Any = node.metadata  # a property, which torch declares as a method
    return found  # type: ignore[no-any-return]


def mark(outputs: Iterable[Node], layer: int, inputs: list[Node]) -> None:
    """Note on a module's output nodes that the module lies between them and the nodes of its inputs."""
    for node in outputs:
        _metadata(node).setdefault(MARK, {})[layer] = inputs


def unmark(node: Node, layer: int) -> list[Node]:
    """Take a layer's note off a node; answers the nodes of its inputs."""
    return _metadata(node)[MARK].pop(layer, [])


def note_samples(node: Node) -> None:
    """Note on a layer's node that its output was taken to have a row for each sample."""
    _metadata(node)[EXAMPLES] = {}


def has_samples(node: Node) -> bool:
    """Whether that was noted."""
    return EXAMPLES in _metadata(node)


def reached(loss: Tensor, around: Collection[int]) -> set[nn.Parameter]:
    """The parameters that a loss depends on otherwise than through the layers marked with a number in `around`."""
    found: set[nn.Parameter] = set()
    seen: set[Node] = set()
    waiting = [] if loss.grad_fn is None else [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        marks = _metadata(node).get(MARK, {})
        layers = [layer for layer in marks if layer in around]
        if layers:
            waiting.extend(marks[max(layers)])  # the highest are modules around other layers
            continue
        for after, _ in node.next_functions:
            if after is not None:
                variable = getattr(after, "variable", None)
                if variable is None:
                    waiting.append(after)
                else:
                    found.add(variable)
    return found


def within(loss: Tensor, kind: str) -> bool:
    """Whether a node of that name is in the graph of a loss."""
    waiting = [] if loss.grad_fn is None else [loss.grad_fn]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if node.name() == kind:
            return True
        below = {after for after, _ in node.next_functions if after is not None} - seen
        seen |= below
        waiting += below
    return False


Parents = Mapping[Node, list[tuple[Node, int]]]


def between(outputs: Iterable[Node], inputs: Iterable[Node]) -> Parents:
    """The graph of one module: for each node its users as (node, which of its results they use).

    Args:
        outputs: the nodes of its outputs.
        inputs: the nodes of its inputs, at which the walk ends.
    """
    parents: defaultdict[Node, list[tuple[Node, int]]] = defaultdict(list)
    seen = set(inputs)
    waiting = list(outputs)
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        for after, result in node.next_functions:
            if after is not None:
                parents[after].append((node, result))
                waiting.append(after)
    return parents
