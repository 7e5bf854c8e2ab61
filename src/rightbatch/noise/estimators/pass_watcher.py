"""The forward hooks of watched layers, which note in a pass what its backward pass will bring."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_flatten, tree_map_only
from torch.utils.hooks import RemovableHandle

from ...errors import UnsupportedError
from ..graph import maker, mark, nodes_of, note_samples, unmark
from ..layers.attention import projects, sites
from ..layers.broadcasts import Graph
from ..layers.calls import CallUse, running_again, versions
from ..layers.coverage import RULES
from ..layers.embedding import EMBEDDING
from ..layers.recurrent import RecurrentUse, recurrent
from ..layers.rule import Rule, Snapshot, trains
from ..layers.unbatched import UnbatchedCall, parameter_use, perhaps_unbatched
from ..layers.uses import LayerUse, ParamUse
from .passes import Pass
from .watched_layers import WatchedLayers


class PassWatcher:
    """Sees the inputs of layers in the forward pass and their output gradients in the backward pass.

    Args:
        watched: the layers.
        keep: keep every use instead of having it read in the backward pass.
        run: the pass in which uses are noted, until it is replaced.

    Attributes:
        marking: whether the graph is marked, so that what acts outside of the layers can be found.
    """

    def __init__(self, watched: WatchedLayers, keep: bool, run: Pass) -> None:
        self.run = run
        self.marking = True
        self._watched = watched
        self._keep = [keep or shared for shared in watched.shared()]
        self._routed: set[nn.Module] = set()  # containers within which calls without samples were found to end
        self._unrecognised: set[int] = set()
        # prepended: a hook of the user's may replace the output
        self._hooks = [(layer, self._forward_hook(index, layer)) for index, layer in enumerate(watched.layers)]

    def register(self) -> list[RemovableHandle]:
        """Put the hooks on the model."""
        handles = []
        for module, inside in self._watched.inside.items():
            if inside and (self.marking or module in self._routed):
                routes = partial(self._find_routes, inside)
                handles.append(module.register_forward_hook(routes, with_kwargs=True))
        for layer, hook in self._hooks:
            handles.append(layer.register_forward_hook(hook, prepend=True, with_kwargs=True))
        return handles

    def _forward_hook(self, index: int, layer: nn.Module) -> Callable[..., Any]:
        rule, path = RULES.get(type(layer)), self._watched.paths[index]

        def after_forward(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            # a compiled layer is not seen; the count of what was seen then refuses
            if torch.compiler.is_compiling() or running_again():
                return None
            nodes = [output.grad_fn] if rule is not None else nodes_of(output)
            if not any(nodes):  # no_grad, evaluation, outer pass of a reentrant checkpoint
                return None
            run = self.run
            run.called(index)
            try:
                if rule is not None:
                    inputs = _positional(layer, args, kwargs) if kwargs else args
                    node = maker(output)
                    if self.marking:
                        mark([node], index, nodes_of(inputs))
                    self._watch(run, index, layer, rule, inputs, output, node)
                elif isinstance(layer, nn.MultiheadAttention) and projects(layer):
                    if self.marking:
                        mark([*nodes, maker(output[0])], index, nodes_of((args, kwargs)))
                    for part, site in enumerate(sites(layer, (args, kwargs), output, run.samples)):
                        self._on_backward(run, index, part, site.node, partial(site.use, run.samples))
                elif recurrent(layer) or not self._watch_parameters(run, index, layer, (args, kwargs), output):
                    return self._watch_call(run, index, layer, args, kwargs, output)
            except UnsupportedError as error:
                run.problems.append((path, str(error)))
            return None

        return after_forward

    def _watch(
        self, run: Pass, index: int, layer: nn.Module, rule: Rule, inputs: Any, output: Tensor, node: Node
    ) -> None:
        kept, shape = rule.keep(layer, inputs, output), output.shape
        # autograd watches what it saved itself, under autocast a copy
        needed: Any = layer.weight
        before = _versions(kept) if trains(needed) else []
        second = layer in self._watched.second
        call = UnbatchedCall(layer, rule, kept, shape)
        perhaps = not second and perhaps_unbatched(rule, kept, run.samples)
        if perhaps:
            run.unbatched_calls.append((index, node, call))
        else:
            note_samples(node)

        def use(d: Tensor) -> ParamUse | None:
            if call.routed:  # it is read where its output is broadcast
                return None
            if before and before != _versions(kept):
                raise UnsupportedError("its input was changed in place before the backward pass")
            rows = kept
            if d.shape != shape:  # of a view's base
                d = d.reshape(shape)
            if second:
                rows = tuple(value.transpose(0, 1) if isinstance(value, Tensor) else value for value in kept)
                d = d.transpose(0, 1)
            if perhaps and run.samples == 1 and rule is EMBEDDING and rows[0].ndim == 1:
                return call.repeated(d.unsqueeze(0))  # a micro-batch of one sample, to which all positions belong
            if rows[0].ndim == 0 or len(rows[0]) != run.samples or len(d) != run.samples:
                given, order = tuple(kept[0].shape), "second" if second else "first"
                raise UnsupportedError(f"has input of shape {given}, not {run.samples} samples {order}")
            return LayerUse(layer, rule, rows, d)

        self._on_backward(run, index, 0, node, use)

    def _on_backward(
        self,
        run: Pass,
        index: int,
        part: int,
        node: Node,
        use: Callable[[Tensor], ParamUse | None],
        several: bool = False,
    ) -> None:
        cell = [use]  # emptied when fired, else the input lives as long as the graph
        path, keep = self._watched.paths[index], several or self._keep[index]

        def before_backward(gradients: Sequence[Tensor | None]) -> None:
            d = gradients[0]
            if d is None:
                return
            if not cell:
                run.problems.append((path, "was reached by a second backward pass through the same graph"))
                return
            try:
                found = cell.pop()(d.detach())
                if found is not None and not run.took(index, part, found, keep):
                    run.problems.append((path, "was used in several parts of the backward pass (checkpoints?)"))
            except UnsupportedError as error:
                run.problems.append((path, str(error)))

        node.register_prehook(before_backward)

    def _watch_parameters(self, run: Pass, index: int, layer: nn.Module, inputs: Any, output: Any) -> bool:
        """Watch a module's own parameters where they are broadcast against activations; False if they act otherwise."""
        if index in self._unrecognised or layer in self._watched.second or run.samples < 2:
            return False
        own = self._watched.own[layer]
        if self.marking:
            mark(nodes_of(output), index, nodes_of(inputs))
        found = Graph(nodes_of(output), nodes_of(inputs), run.samples).parameters(own)
        if not found:
            if self.marking:
                for node in nodes_of(output):
                    unmark(node, index)
            self._unrecognised.add(index)
            return False
        part = 0
        for name, routes in found.items():
            for route in routes:
                use = partial(parameter_use, type(layer).__name__, name, own[name], route)
                self._on_backward(run, index, part, route.node, use, several=len(routes) > 1)
                part += 1
        return True

    def _find_routes(
        self, inside: set[int], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        """Watch unbatched calls of layers inside a module where their outputs are broadcast, if that is within it."""
        if torch.compiler.is_compiling() or running_again():
            return
        run = self.run
        calls = [found for found in run.unbatched_calls if found[0] in inside]
        if not calls:
            return
        try:
            graph = Graph(nodes_of(output), nodes_of((args, kwargs)), run.samples)
        except UnsupportedError as error:
            run.problems.append((self._watched.paths[calls[0][0]], str(error)))
            return
        for index, node, call in calls:
            routes = graph.routes(node)
            for part, route in enumerate(routes):
                self._on_backward(run, index, part, route.node, partial(call.use, route), several=len(routes) > 1)
            if routes:
                self._routed.add(module)
                if self.marking:
                    mark([node], index + len(self._watched.layers), unmark(node, index))
                    mark(nodes_of(output), index + 2 * len(self._watched.layers), nodes_of((args, kwargs)))
                call.routed = True
                run.unbatched.add(index)
                run.unbatched_calls.remove((index, node, call))

    def _watch_call(
        self, run: Pass, index: int, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        """A module to be run again; it returns copies, whose gradients leave out what it makes of them itself."""
        if recurrent(layer) and any(isinstance(value, PackedSequence) for value in (*args, *kwargs.values())):
            raise UnsupportedError("was called with a packed sequence: pass a padded tensor")
        flat = tree_flatten(output)[0]
        output = tree_map_only(Tensor, lambda t: t if t.grad_fn is None else t.clone(), output)
        leaves, structure = tree_flatten((args, kwargs))
        if self.marking:
            mark(nodes_of(output), index, nodes_of(leaves))
        use = (RecurrentUse if recurrent(layer) else CallUse)(
            path=self._watched.paths[index],
            module=layer,
            own=self._watched.own[layer],
            leaves=[leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves],
            structure=structure,
            outputs=[leaf.detach() if isinstance(leaf, Tensor) else None for leaf in flat],
            d=[None] * len(flat),
            dimension=int(layer in self._watched.second),
            samples=run.samples,
            versions=versions(layer),
        )
        path = self._watched.paths[index]
        fired: set[int] = set()

        def watch(k: int, node: Node) -> None:
            cell = [use]

            def before_backward(gradients: Sequence[Tensor | None]) -> None:
                if not cell:
                    run.problems.append((path, "was reached by a second backward pass through the same graph"))
                    return
                held = cell.pop()
                if gradients[0] is not None:
                    held.d[k] = gradients[0].detach()
                    if not fired:
                        run.took(index, 0, held, True)
                    fired.add(k)

            node.register_prehook(before_backward)

        for k, value in enumerate(tree_flatten(output)[0]):
            if isinstance(value, Tensor) and value.grad_fn is not None:
                watch(k, value.grad_fn)
        return output


def _positional(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """All arguments of a call in the order of the forward's signature."""
    bound = inspect.signature(layer.forward).bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.args


def _versions(kept: Snapshot) -> list[int]:
    return [value._version for value in kept if isinstance(value, Tensor) and not value.is_inference()]
