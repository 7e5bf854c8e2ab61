"""Hooks that see each layer's input and output gradient in the ordinary backward pass, and touch nothing."""

import inspect
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_flatten, tree_map_only
from torch.utils.hooks import RemovableHandle

from ...errors import UnsupportedError
from ...measurements import LayerReading
from ..graph import maker, mark, nodes_of, note_samples, reached, unmark
from ..layers.attention import projects, sites
from ..layers.broadcasts import Graph
from ..layers.calls import CallUse, running_again, versions
from ..layers.coverage import ROOT, RULES, couples, hooked, owned, positions_first, uncovered
from ..layers.embedding import EMBEDDING
from ..layers.reading import NormReader
from ..layers.recurrent import RecurrentUse, recurrent
from ..layers.rule import Rule, Snapshot, trains
from ..layers.unbatched import UnbatchedCall, parameter_use, perhaps_unbatched
from ..layers.uses import LayerUse, ParamUse
from .passes import Pass, listed, per_example_sum


class GradHooks:
    """Watches every module of a model that has trainable parameters of its own.

    `layers` are the modules watched and `covered` their parameters.

    Args:
        model: without obstacles to exact per-example norms.
        keep: keep every use instead of reducing it to its norms in the backward pass.
        reading: how uses are reduced.
        only: the modules to watch; None for all.

    Raises:
        UnsupportedError: naming what stands against exactness.
    """

    def __init__(
        self,
        model: nn.Module,
        keep: bool = False,
        reading: NormReader | None = None,
        only: Collection[nn.Module] | None = None,
    ) -> None:
        obstacles = uncovered(model, only)
        if obstacles:
            raise UnsupportedError(f"no exact per-example gradient norms for this model: {listed(obstacles)}")
        self._paths = {module: path or ROOT for path, module in model.named_modules()}
        self._own = {module: own for module, own in owned(model).items() if only is None or module in only}
        self.layers = list(self._own)
        self.covered = list(dict.fromkeys(p for own in self._own.values() for p in own.values()))
        self._users: defaultdict[Tensor, list[str]] = defaultdict(list)
        for module, own in self._own.items():
            for p in own.values():
                self._users[p].append(self._paths[module])
        self._keep_all = keep
        self._keep = [keep or any(len(self._users[p]) > 1 for p in own.values()) for own in self._own.values()]
        self._second = positions_first(model)
        self._parameters = list(model.parameters())
        self._trainable = [p.requires_grad for p in self._parameters]
        self._normalising = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        self._inside = {
            module: {index for index, layer in enumerate(self.layers) if layer in inner and type(layer) in RULES}
            for module in model.modules()
            if len(inner := set(module.modules())) > 1
        }
        self._routed: set[nn.Module] = set()  # containers within which calls without samples were found to end
        self._unrecognised: set[int] = set()
        # prepended: a hook of the user's may replace the output
        self._hooks = [(layer, self._forward_hook(index, layer)) for index, layer in enumerate(self.layers)]
        self._handles: list[RemovableHandle] = []
        self.marking = True
        self._reading = reading or NormReader()
        self._latest: tuple[LayerReading, ...] | None = None
        self._layers_read: tuple[LayerReading, ...] = ()
        self._pass = Pass(0, self._read)

    @property
    def attached(self) -> bool:
        """Whether the hooks are on the model."""
        return bool(self._handles)

    @property
    def layers_read(self) -> tuple[LayerReading, ...]:
        """How each layer was read; of those used several times all uses together."""
        latest = self._reading.layers
        if latest != self._latest:
            read = {reading.path: reading for reading in latest}
            self._latest = latest
            self._layers_read = tuple(
                read.get(path) or LayerReading(path, type(layer).__name__, "exact", "its uses must be seen together")
                for layer, path in ((layer, self._paths[layer]) for layer in self.layers)
            )
        return self._layers_read

    @property
    def layers_exact(self) -> tuple[LayerReading, ...]:
        """The same where every use is kept: all are exact."""
        seen, again = "from its input and output gradient", "from its gradients, the module being run again"
        return tuple(
            LayerReading(self._paths[layer], type(layer).__name__, "exact", seen if has_rule(layer) else again)
            for layer in self.layers
        )

    def begin(self, samples: int) -> Pass:
        """Register the hooks if they are not, and collect what follows in a new pass."""
        if not self._handles:
            for module, inside in self._inside.items():
                if inside and (self.marking or module in self._routed):
                    routes = partial(self._find_routes, inside)
                    self._handles.append(module.register_forward_hook(routes, with_kwargs=True))
            for layer, hook in self._hooks:
                self._handles.append(layer.register_forward_hook(hook, prepend=True, with_kwargs=True))
        self._pass = Pass(samples, self._read, self._reading.begin(samples, self._parameters[0].device))
        self._pass.audited = self._reading.audited_rows
        return self._pass

    def _read(self, index: int, use: ParamUse) -> Tensor:
        return self._reading.norms2(self._paths[self.layers[index]], use)

    def remove(self) -> None:
        """Take all hooks off the model."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def forget(self) -> None:
        """Let go of the latest pass."""
        self._pass = Pass(0, self._read)

    def verify(self, loss: Tensor) -> None:
        """Refuse parameters that act otherwise than in their layers: by function, or in a penalty term.

        Args:
            loss: of a forward pass since `begin`, before its backward pass, made while `marking`.

        Raises:
            UnsupportedError: naming the layers.
        """
        problems = []
        layers = range(len(self.layers))
        simple = {index for index in layers if has_rule(self.layers[index])}
        # calls without samples are marked apart, and the modules in which their broadcasts were all found once more
        count, unbatched = len(layers), self._pass.unbatched
        apart = {index + count for index in unbatched}
        walks = [(simple, simple | apart)] if simple else []
        # within a module that is run again as a whole the other layers are its own business
        walks += [({index}, {index}) for index in layers if index not in simple]
        walks += [({index}, (simple | apart | {index + 2 * count}) - {index + count}) for index in sorted(unbatched)]
        for checked, around in walks:
            elsewhere = reached(loss, around)
            for index in sorted(checked):
                layer = self.layers[index]
                problems += [
                    (self._paths[layer], f"its {name} also acts elsewhere: by function, in a penalty term, or compiled")
                    for name, parameter in self._own[layer].items()
                    if parameter in elsewhere
                ]
        if problems:
            raise UnsupportedError(f"no exact per-example gradient norms for this loss: {listed(problems)}")

    def check(self, run: Pass) -> None:
        """Refuse a pass in which not every layer was seen, with one row for each sample.

        Raises:
            UnsupportedError: naming the layers and what was seen of them.
        """
        problems = list(run.problems)
        if not problems and len(run.reached) < len(self.layers):
            problems += [
                (self._paths[layer], "took no part in the backward pass (unused, or compiled?)")
                for index, layer in enumerate(self.layers)
                if index not in run.reached
            ]
        if [p.requires_grad for p in self._parameters] != self._trainable:
            problems.append((ROOT, "parameters were frozen or unfrozen since the measurement was set up"))
        if any(map(hooked, self.covered)):
            problems.append((ROOT, "hooks that may change its gradient were put on a parameter since then"))
        if any(map(couples, self._normalising)):
            problems.append((ROOT, "BatchNorm was set to training mode since the measurement was set up"))
        if problems:
            raise UnsupportedError(f"per-example gradient norms cannot be read from this pass: {listed(problems)}")

    def uses(self, run: Pass) -> list[ParamUse]:
        """The uses kept in a pass, taken apart.

        Raises:
            UnsupportedError: naming the module that cannot be.
        """
        return [part for use in run.uses for part in use.parts()]

    def norms2(self, run: Pass) -> Tensor:
        """‖c_i‖² of a checked pass, shape (b,)."""
        if run.uses:
            uses = self.uses(run)
            read = uses if run.rows is None else [use.at(run.rows) for use in uses]
            run.norms2 += self._reading.joint(read, self._users, run.audited)
            run.kept, run.uses = uses if self._keep_all else [], []
        return per_example_sum(run.norms2)

    def products(self, run: Pass, gradients: Mapping[Tensor, Tensor | None]) -> Tensor:
        """⟨c_i, G⟩ of a pass whose norms were read, shape (b,); every use must have been kept."""
        return per_example_sum([use.products(gradients) for use in run.kept])

    def _forward_hook(self, index: int, layer: nn.Module) -> Callable[..., Any]:
        rule, path = RULES.get(type(layer)), self._paths[layer]

        def after_forward(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            # a compiled layer is not seen; the count of what was seen then refuses
            if torch.compiler.is_compiling() or running_again():
                return None
            nodes = [output.grad_fn] if rule is not None else nodes_of(output)
            if not any(nodes):  # no_grad, evaluation, outer pass of a reentrant checkpoint
                return None
            run = self._pass
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
        second = layer in self._second
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
        path, keep = self._paths[self.layers[index]], several or self._keep[index]

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
        if index in self._unrecognised or layer in self._second or run.samples < 2:
            return False
        own = self._own[layer]
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
        run = self._pass
        calls = [found for found in run.unbatched_calls if found[0] in inside]
        if not calls:
            return
        try:
            graph = Graph(nodes_of(output), nodes_of((args, kwargs)), run.samples)
        except UnsupportedError as error:
            run.problems.append((self._paths[self.layers[calls[0][0]]], str(error)))
            return
        for index, node, call in calls:
            routes = graph.routes(node)
            for part, route in enumerate(routes):
                self._on_backward(run, index, part, route.node, partial(call.use, route), several=len(routes) > 1)
            if routes:
                self._routed.add(module)
                if self.marking:
                    mark([node], index + len(self.layers), unmark(node, index))
                    mark(nodes_of(output), index + 2 * len(self.layers), nodes_of((args, kwargs)))
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
            path=self._paths[layer],
            module=layer,
            own=self._own[layer],
            leaves=[leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves],
            structure=structure,
            outputs=[leaf.detach() if isinstance(leaf, Tensor) else None for leaf in flat],
            d=[None] * len(flat),
            dimension=int(layer in self._second),
            samples=run.samples,
            versions=versions(layer),
        )
        path = self._paths[layer]
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


def has_rule(layer: nn.Module) -> bool:
    """Whether a layer is seen through its own hooks alone, without being run again."""
    return type(layer) in RULES or projects(layer) or recurrent(layer)
