"""Tensors without a dimension for the samples that are broadcast against activations: tables, tokens, gains.

A parameter added to activations, or a table of positions looked up once for all samples, has no row for each sample.
The node that broadcasts it has: the gradient at its output, reduced over everything but the samples, is what each of
them contributes. What was made of the parameter before, such as a slice or a sigmoid, is undone by its own nodes.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import Node

from ...errors import UnsupportedError
from ..graph import has_samples

Shape = tuple[int, ...]
MOST_ROUTES = 64


def _from_add(node: Any, d: Tensor, slot: int) -> Tensor:
    return d if slot == 0 or node._saved_alpha == 1 else d * node._saved_alpha


def _from_subtract(node: Any, d: Tensor, slot: int) -> Tensor:
    return d if slot == 0 else d * -node._saved_alpha


def _from_multiply(node: Any, d: Tensor, slot: int) -> Tensor:
    factor: Tensor = node._saved_self if slot else node._saved_other
    return d * factor


def _from_layer_norm(node: Any, d: Tensor, slot: int) -> Tensor:
    if slot == 2:
        return d
    normalised: Tensor = (node._saved_input - node._saved_result1) * node._saved_result2
    return normalised * d


def _as_is(node: Any, d: Tensor, slot: int) -> Tensor:
    return d


def _from_itself(node: Any, d: Tensor, slot: int) -> Tensor:
    """Outside a backward pass a node leaves the sum over broadcast dimensions to its caller."""
    found: Tensor = node(d)[slot]
    return found


# (node, gradient at its output, which input) -> gradient at that input before the sum over broadcast dimensions
BROADCASTS: dict[str, Callable[[Any, Tensor, int], Tensor]] = {
    "AddBackward0": _from_add,
    "SubBackward0": _from_subtract,
    "MulBackward0": _from_multiply,
    "DivBackward0": _from_itself,
    "WhereBackward0": _from_itself,
    "NativeLayerNormBackward0": _from_layer_norm,
    "ExpandBackward0": _as_is,
}
# Undone without a change of norm: each entry of the input is one of the output, or none.
REARRANGING = {
    "AliasBackward0",
    "CloneBackward0",
    "PermuteBackward0",
    "ReshapeAliasBackward0",
    "SelectBackward0",
    "SliceBackward0",
    "SqueezeBackward0",
    "SqueezeBackward1",
    "TBackward0",
    "TransposeBackward0",
    "UnsafeViewBackward0",
    "UnsqueezeBackward0",
    "ViewBackward0",
}
PREPARING = REARRANGING | {
    "AbsBackward0",
    "AddBackward0",
    "AddmmBackward0",
    "CatBackward0",
    "ClampBackward1",
    "DivBackward0",
    "ExpBackward0",
    "ExpandBackward0",
    "GeluBackward0",
    "IndexBackward0",
    "LogBackward0",
    "MeanBackward0",
    "MeanBackward1",
    "MmBackward0",
    "MulBackward0",
    "NativeLayerNormBackward0",
    "NegBackward0",
    "PowBackward0",
    "ReciprocalBackward0",
    "ReluBackward0",
    "RepeatBackward0",
    "RsqrtBackward0",
    "SigmoidBackward0",
    "SiluBackward0",
    "SoftmaxBackward0",
    "SoftplusBackward0",
    "SplitBackward0",
    "SplitWithSizesBackward0",
    "SqrtBackward0",
    "StackBackward0",
    "SubBackward0",
    "SumBackward0",
    "SumBackward1",
    "TanhBackward0",
    "ToCopyBackward0",
    "UnbindBackward0",
}


class BackwardStep(NamedTuple):
    """One node between a source and its broadcast.

    Args:
        node: the node.
        result: which of its outputs is used.
        slot: which of its inputs comes from the source.
        shape: of that input.
    """

    node: Node
    result: int
    slot: int
    shape: Shape

    def undone(self, rows: Tensor) -> Tensor:
        """The gradients of each sample at its input from those at its output."""

        def one(gradient: Tensor) -> Tensor:
            node: Any = self.node  # may be called, which torch does not declare
            gradients: list[Tensor | None] = [None] * len(node._input_metadata)
            gradients[self.result] = gradient
            found = node(*gradients)
            found = found[self.slot] if isinstance(found, tuple) else found
            return _summed(found.unsqueeze(0), self.shape)[0]

        return torch.func.vmap(one)(rows)


class Route(NamedTuple):
    """One way of a source into the activations.

    Args:
        node: broadcasts it along the samples.
        slot: which of its inputs it is.
        shape: of that input.
        steps: from there down to the source.
    """

    node: Node
    slot: int
    shape: Shape
    steps: tuple[BackwardStep, ...]

    def rows(self, d: Tensor) -> Tensor:
        """What each sample contributes to the gradient at that input, from the gradient at the node's output.

        Returns:
            Shape (b, *shape).
        """
        wide = torch.promote_types(d.dtype, torch.float32)
        return _summed(BROADCASTS[self.node.name()](self.node, d, self.slot).to(wide), self.shape)

    def contributions(self, d: Tensor) -> Tensor:
        """The same at the source, shape (b, *shape of the source)."""
        return undone(self.rows(d), self.steps)


class Graph:
    """The graph of one module with what is broadcast along the samples in it.

    Whatever a broadcast node takes in has no dimension for the samples, nor has anything that this is made of: sizes
    alone would not tell a table of as many positions as there are samples from activations.

    Args:
        outputs: the nodes of its outputs.
        inputs: the nodes of its inputs, at which the walk ends.
        samples: b; nothing can be told from one.

    Raises:
        UnsupportedError: something that was read with a row for each sample is broadcast along the samples.
    """

    def __init__(self, outputs: Collection[Node], inputs: Collection[Node], samples: int) -> None:
        self._samples = samples
        ends = set(inputs)
        self._last = set(outputs)
        self._opaque = False
        waiting = list(self._last - ends)
        seen = {*waiting, *ends}
        users: defaultdict[Node, list[tuple[Node, int, int]]] = defaultdict(list)
        broadcast: list[tuple[Node, int]] = []
        while waiting:
            node = waiting.pop()
            name = node.name()
            if name in BROADCASTS and samples > 1:
                broadcast += [(node, slot) for slot in self._along_samples(node)]
            self._opaque |= name == "CheckpointFunctionBackward"
            for slot, (below, result) in enumerate(node.next_functions):
                if below is not None:
                    users[below].append((node, slot, result))
                    if below not in seen:
                        seen.add(below)
                        waiting.append(below)
        shared: set[Node] = set()
        waiting = [below for node, slot in broadcast if (below := node.next_functions[slot][0]) is not None]
        while waiting:
            node = waiting.pop()
            if node in shared:
                continue
            shared.add(node)
            if node not in ends:
                waiting += [below for below, _ in node.next_functions if below is not None]
        self._users = users
        self._shared = shared
        self._broadcast = {(node, slot) for node, slot in broadcast if node not in shared}
        self._coupled = bool(shared & ends)
        if any(map(has_samples, shared)):
            raise UnsupportedError(
                f"a layer's output is broadcast along the {samples} samples: it couples them, or has as many "
                "positions as there are samples; another batch size tells which"
            )

    def routes(self, source: Node) -> list[Route]:
        """Every way of a source into the activations; none if one of them is of another kind.

        Args:
            source: the node that made a tensor without a dimension for the samples, or of a parameter.
        """
        if self._coupled:
            return []
        found: list[Route] = []
        for route in self._upwards(source, ()):
            if route is None or len(found) == MOST_ROUTES:
                return []
            found.append(route)
        return found

    def parameters(self, wanted: Mapping[str, Tensor]) -> dict[str, list[Route]]:
        """The routes of each parameter; empty if those of one are not all found."""
        if self._opaque:
            return {}
        nodes = {variable: node for node in self._users if (variable := getattr(node, "variable", None)) is not None}
        found = {name: self.routes(nodes[p]) if p in nodes else [] for name, p in wanted.items()}
        return found if all(found.values()) else {}

    def _along_samples(self, node: Node) -> Iterator[int]:
        """The inputs that a node broadcasts along the samples."""
        shape = _shape(node, 0)
        if not shape or shape[0] != self._samples:
            return
        for slot, (below, result) in enumerate(node.next_functions):
            if below is not None:
                given = _shape(below, result)
                if len(given) < len(shape) or given[0] == 1:
                    yield slot

    def _upwards(self, node: Node, steps: tuple[BackwardStep, ...]) -> Iterator[Route | None]:
        """The routes from a node on, None for one that is not known."""
        if node in self._last or len(steps) == MOST_ROUTES:
            yield None
        for user, slot, result in self._users.get(node, []):
            done = (steps[0]._replace(result=result), *steps[1:]) if steps else ()
            shape = _shape(node, result)
            if _hooked(user):
                yield None
            elif (user, slot) in self._broadcast:
                yield Route(user, slot, shape, done)
            elif user in self._shared and user.name() in PREPARING:
                yield from self._upwards(user, (BackwardStep(user, 0, slot, shape), *done))
            else:
                yield None


def _hooked(node: Node) -> bool:
    """Whether hooks give back what a node saved: those of a checkpoint do so once, which is the backward pass's."""
    for name in _saved_names(type(node)):
        saved = getattr(node, name)
        each = saved if isinstance(saved, tuple) else (saved,)
        if any(getattr(one, "unpack_hook", None) is not None for one in each):
            return True
    return False


@cache
def _saved_names(kind: type[Node]) -> tuple[str, ...]:
    return tuple(name for name in dir(kind) if name.startswith("_raw_saved_"))


def undone(rows: Tensor, steps: Iterable[BackwardStep]) -> Tensor:
    """Gradients of each sample at the source, from those at the top of the steps that were made of it."""
    for step in steps:
        rows = step.undone(rows)
    return rows


def _summed(rows: Tensor, shape: Shape) -> Tensor:
    """Gradients of a broadcast tensor, a row for each sample, at the tensor itself: shape (b, *shape)."""
    inner = (1,) * (rows.ndim - len(shape)) + tuple(shape)
    wide = [k for k in range(1, rows.ndim) if inner[k] == 1 and rows.shape[k] != 1]
    return (rows.sum(wide) if wide else rows).reshape(len(rows), *shape)


def _shape(node: Any, result: int) -> Shape:
    """The shape of one of a node's outputs."""
    variable = getattr(node, "variable", None)
    return tuple(node._input_metadata[result].shape) if variable is None else tuple(variable.shape)
