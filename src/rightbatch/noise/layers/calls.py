"""Modules without a rule: their gradients for each sample, from running the module once more on what it was given.

A vector-Jacobian product of the module for each sample, several at a time under `torch.func.vmap`. The output of the
second run is compared with that of the first, which finds randomness, coupled samples and changed parameters.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from ...errors import UnsupportedError
from ..gradient_norm import sum_dtype
from .rule import spans
from .sharing import formed_norms2
from .uses import ParamUse, Slot, whole

_state = threading.local()
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4}
ROUGH = 1e-2  # of half precision


def running_again() -> bool:
    """Whether a module is being run a second time, not to be watched."""
    return getattr(_state, "running", False)


class _Forward(nn.Module):
    """A module's forward without the hooks on it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module.forward(*args, **kwargs)


@dataclass(frozen=True, eq=False)
class CallUse:
    """One call of a module.

    Args:
        path: where the module stands in the model.
        module: the module.
        own: its own trainable parameters by name.
        leaves: what it was called with, flattened.
        structure: of the leaves: positional and keyword arguments.
        outputs: the tensors it returned, None for anything else.
        d: the gradient at each of these, None where the loss does not depend on it; filled by the backward pass.
        dimension: which dimension counts the samples.
        samples: b.
        versions: of all parameters and buffers at the time.
    """

    path: str
    module: nn.Module
    own: Mapping[str, nn.Parameter]
    leaves: list[Any]
    structure: TreeSpec
    outputs: list[Tensor | None]
    d: list[Tensor | None]
    dimension: int
    samples: int
    versions: list[int]

    @property
    def kind(self) -> str:
        return type(self.module).__name__

    def at(self, rows: Tensor) -> ParamUse:
        def chosen(leaf: Any) -> Any:
            return leaf.index_select(self.dimension, rows) if self._counts(leaf) else leaf

        leaves, outputs, d = ([chosen(leaf) for leaf in leaves] for leaves in (self.leaves, self.outputs, self.d))
        return replace(self, leaves=leaves, outputs=outputs, d=d, samples=len(rows))

    def parts(self) -> Iterable[ParamUse]:
        if self.versions != versions(self.module):
            raise self._refusal("its parameters or buffers were changed before the measurement was read")
        return (self,)

    def slots(self) -> dict[str, Slot]:
        return {name: whole(parameter) for name, parameter in self.own.items()}

    def norms2(self) -> Tensor:
        return formed_norms2([self])

    def products(self, of: Mapping[Tensor, Tensor | None]) -> Tensor:
        first = next(d for d in self.d if d is not None)
        inner = torch.zeros(self.samples, dtype=sum_dtype(first.device), device=first.device)
        for span in spans(self.samples, sum(parameter.numel() for parameter in self.own.values())):
            for slot, gradient in self.gradients(span).items():
                total = of[slot.parameter]
                if total is not None:
                    inner[span] += (gradient * total).reshape(len(gradient), -1).sum(1)
        return inner

    def gradients(self, span: slice) -> Mapping[Slot, Tensor]:
        rows = [self._rows(leaf, span) if self._counts(leaf) else leaf for leaf in self.leaves]
        moving = [row for row, leaf in zip(rows, self.leaves, strict=True) if self._counts(leaf)]
        wanted = [k for k, d in enumerate(self.d) if d is not None]
        d = [self._rows(self.d[k], span) for k in wanted]
        for k in wanted:
            output = self.outputs[k]
            if output is None or not self._counts(output):
                raise self._refusal(f"its output has no dimension {self.dimension} of {self.samples} samples")

        def pulled(values: list[Tensor], gradients: list[Tensor]) -> tuple[dict[str, Tensor], list[Tensor]]:
            waiting = iter(values)
            leaves = [next(waiting).unsqueeze(self.dimension) if self._counts(leaf) else leaf for leaf in self.leaves]

            def run(parameters: dict[str, Tensor]) -> list[Tensor]:
                args, kwargs = tree_unflatten(leaves, self.structure)
                found = torch.func.functional_call(forward, parameters, args, kwargs)
                flat = tree_flatten(found)[0]
                return [flat[k] for k in wanted]

            again, pullback, *_ = torch.func.vjp(run, parameters)
            found: dict[str, Tensor] = pullback([g.unsqueeze(self.dimension) for g in gradients])[0]
            return found, [value.squeeze(self.dimension) for value in again]

        forward = _Forward(self.module)
        parameters = {f"module.{name}": parameter.detach() for name, parameter in self.own.items()}
        found, again = self._apart(torch.func.vmap(pulled), moving, d)
        for k, value in zip(wanted, again, strict=True):
            output = self._rows(self.outputs[k], span)
            self._compare(value, output, TOLERANCES.get(output.dtype, ROUGH))
        return {slot: found[f"module.{name}"] for name, slot in self.slots().items()}

    def _apart(self, function: Callable[..., Any], *args: Any) -> Any:
        _state.running = True
        try:
            with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no form for many samples at once
                return function(*args)
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise self._refusal(f"cannot be run one sample at a time ({reason})") from error
        finally:
            _state.running = False

    def _compare(self, again: Tensor, output: Tensor, tolerance: float) -> None:
        if again.shape == output.shape:
            size = output.abs().max().item() if output.numel() else 0.0
            if (again - output).abs().max().item() <= tolerance * (size + 1e-30):
                return
        raise self._refusal(
            "its output for one sample alone is not what it was in the batch: randomness, coupled samples, inputs "
            "changed in place or kept elsewhere"
        )

    def _refusal(self, reason: str) -> UnsupportedError:
        return UnsupportedError(f"'{self.path}': {reason}")

    def _counts(self, leaf: Any) -> bool:
        return isinstance(leaf, Tensor) and leaf.ndim > self.dimension and leaf.shape[self.dimension] == self.samples

    def _rows(self, value: Any, span: slice) -> Tensor:
        """The samples in `span`, first."""
        moved: Tensor = value.movedim(self.dimension, 0)[span]
        return moved


def versions(module: nn.Module) -> list[int]:
    """The version counters of all parameters and buffers of a module."""
    return [tensor._version for tensor in (*module.parameters(), *module.buffers())]
