"""Hooks that see each layer's input and output gradient in the ordinary backward pass, and touch nothing."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from ..errors import UnsupportedError
from .coverage import ROOT, RULES, couples, trained, uncovered
from .gradient_norm import sum_dtype
from .layers import Kept, Rule

Seen = TypeVar("Seen")


class Pass(Generic[Seen]):
    """What was seen in one forward and backward pass."""

    def __init__(self, examples: int) -> None:
        self.examples = examples
        self.seen: list[tuple[int, Seen]] = []
        self.problems: list[tuple[str, str]] = []


class Taps(Generic[Seen]):
    """Watches every layer of a model that has trainable parameters.

    Args:
        model: every layer with trainable parameters must be a supported one.
        observe: (layer, rule, kept, d) -> what to note, called in the backward pass of each layer.

    Raises:
        UnsupportedError: naming what stands against exactness.
    """

    def __init__(self, model: nn.Module, observe: Callable[[nn.Module, Rule, Kept, Tensor], Seen]) -> None:
        obstacles = uncovered(model)
        if obstacles:
            raise UnsupportedError(f"no exact per-example gradient norms for this model: {listed(obstacles)}")
        self._observe = observe
        self._paths = {module: path or ROOT for path, module in model.named_modules() if trained(module)}
        self.layers = list(self._paths)
        self._parameters = list(model.parameters())
        self._trainable = [p.requires_grad for p in self._parameters]
        self._normalising = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        self._once = list(range(len(self.layers)))
        self._handles: list[RemovableHandle] = []
        self._pass: Pass[Seen] = Pass(0)

    @property
    def attached(self) -> bool:
        """Whether the hooks are on the model."""
        return bool(self._handles)

    def begin(self, examples: int) -> Pass[Seen]:
        """Register the hooks if they are not, and collect what follows in a new pass."""
        if not self._handles:
            for index, layer in enumerate(self.layers):
                # prepended: a hook of the user's may replace the output
                self._handles.append(layer.register_forward_hook(self._forward_hook(index, layer), prepend=True))
        self._pass = Pass(examples)
        return self._pass

    def remove(self) -> None:
        """Take all hooks off the model."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def path(self, layer: nn.Module) -> str:
        """Where a layer stands in the model."""
        return self._paths[layer]

    def check(self, run: Pass[Seen]) -> None:
        """Refuse a pass in which not every layer was seen exactly once, with one row for each example.

        Raises:
            UnsupportedError: naming the layers and what was seen of them.
        """
        problems = list(run.problems)
        if not problems and sorted(index for index, _ in run.seen) != self._once:
            counts = Counter(index for index, _ in run.seen)
            for index, layer in enumerate(self.layers):
                if counts[index] == 0:
                    problems.append((self._paths[layer], "took no part in the backward pass (unused, or compiled?)"))
                elif counts[index] > 1:
                    problems.append((self._paths[layer], f"was used {counts[index]} times in one forward pass"))
        if [p.requires_grad for p in self._parameters] != self._trainable:
            problems.append((ROOT, "parameters were frozen or unfrozen since the measurement was set up"))
        if any(map(couples, self._normalising)):
            problems.append((ROOT, "BatchNorm was set to training mode since the measurement was set up"))
        if problems:
            raise UnsupportedError(f"per-example gradient norms cannot be read from this pass: {listed(problems)}")

    def _forward_hook(self, index: int, layer: nn.Module) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        rule, path, observe = RULES[type(layer)], self._paths[layer], self._observe

        def after_forward(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if torch.compiler.is_compiling():  # a compiled layer is not seen; the count of what was seen then refuses
                return
            node = output.grad_fn
            if node is None:  # no_grad, evaluation, outer pass of a reentrant checkpoint
                return
            run = self._pass
            if not inputs:
                run.problems.append((path, "was called with its input as a keyword"))
                return
            cell = [rule.keep(inputs[0], node)]  # emptied when fired, else the input lives as long as the graph

            def before_backward(gradients: Sequence[Tensor | None]) -> None:
                d = gradients[0]
                if d is None:
                    return
                if not cell:
                    run.problems.append((path, "was reached by a second backward pass through the same graph"))
                    return
                kept = cell.pop()
                if kept[0].ndim == 0 or len(kept[0]) != run.examples or len(d) != run.examples:
                    shape = tuple(kept[0].shape)
                    run.problems.append((path, f"has input of shape {shape}, not {run.examples} examples first"))
                    return
                try:
                    run.seen.append((index, observe(layer, rule, kept, d.detach())))
                except UnsupportedError as error:
                    run.problems.append((path, str(error)))

            node.register_prehook(before_backward)

        return after_forward


def listed(problems: Sequence[tuple[str, str]]) -> str:
    """The first few (module path, reason) in one line."""
    shown = "; ".join(f"'{path}': {reason}" for path, reason in problems[:3])
    return shown + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")


def per_example_sum(parts: Sequence[Tensor]) -> Tensor:
    """Sum over layers of one number for each example, parts of shape (b,), on any devices."""
    device = parts[0].device
    if len({(part.device, part.dtype) for part in parts}) > 1:
        parts = [part.to(device, sum_dtype(device)) for part in parts]
    return torch.stack(list(parts)).sum(0, dtype=sum_dtype(device))
