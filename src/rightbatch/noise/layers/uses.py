"""One use of one layer in a pass: what it contributes to the gradient of each sample."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ..gradient_norm import sum_dtype
from .linear import LINEAR
from .rule import Rule, Snapshot, trains


class Slot(NamedTuple):
    """The rows of a parameter that a use trains; all of it unless said otherwise."""

    parameter: Tensor
    start: int
    stop: int

    def rows(self, value: Tensor) -> Tensor:
        """The same rows of a value shaped as the parameter."""
        return value if value.ndim == 0 or self.stop - self.start == len(value) else value[self.start : self.stop]


def whole(parameter: Tensor) -> Slot:
    """All rows of a parameter."""
    return Slot(parameter, 0, len(parameter) if parameter.ndim else 1)


class ParamUse(Protocol):
    """What every kind of use can tell, once the backward pass has gone through it."""

    @property
    def samples(self) -> int:
        """B."""

    @property
    def kind(self) -> str:
        """The type of the module."""

    def at(self, rows: Tensor) -> "ParamUse":
        """The same use by some of the samples only."""

    def parts(self) -> Iterable["ParamUse"]:
        """Itself, or the simpler uses it is made of."""

    def slots(self) -> Mapping[str, Slot]:
        """The parameters it trains, by name."""

    def norms2(self) -> Tensor:
        """‖c_i‖², shape (b,)."""

    def gradients(self, span: slice) -> Mapping[Slot, Tensor]:
        """c_i of the samples in `span`, shape (n, *rows of the parameter) each."""

    def products(self, of: Mapping[Tensor, Tensor | None]) -> Tensor:
        """⟨c_i, G⟩, shape (b,), for the gradients G of the parameters."""


class Projection(NamedTuple):
    """A linear map inside a module, by some rows of the module's parameters; to the rule of Linear a layer like any."""

    weight: Tensor
    bias: Tensor | None
    rows: tuple[int, int]  # of the weight
    bias_start: int

    def slots(self) -> dict[str, Slot]:
        """The rows it trains."""
        found = {"weight": Slot(self.weight, *self.rows)} if trains(self.weight) else {}
        if self.bias is not None and self.bias.requires_grad:
            found["bias"] = Slot(self.bias, self.bias_start, self.bias_start + self.rows[1] - self.rows[0])
        return found


@dataclass(slots=True, eq=False)
class LayerUse:
    """The use of a layer that has a rule.

    Args:
        layer: the layer, or a linear map within one.
        rule: its rule.
        kept: what its rule kept.
        d: gradient at its output, shape (b, ...).
    """

    layer: nn.Module | Projection
    rule: Rule
    kept: Snapshot
    d: Tensor

    @property
    def samples(self) -> int:
        return len(self.d)

    @property
    def kind(self) -> str:
        return type(self.layer).__name__

    def at(self, rows: Tensor) -> "LayerUse":
        kept = tuple(value[rows] if isinstance(value, Tensor) else value for value in self.kept)
        return LayerUse(self.layer, self.rule, kept, self.d[rows])

    def parts(self) -> Iterable[ParamUse]:
        return (self,)

    def slots(self) -> dict[str, Slot]:
        if isinstance(self.layer, Projection):
            return self.layer.slots()
        return {name: whole(p) for name, p in self.layer.named_parameters(recurse=False) if p.requires_grad}

    def norms2(self) -> Tensor:
        return self.rule.norms2(self.layer, self.kept, self.d)

    def gradients(self, span: slice) -> Mapping[Slot, Tensor]:
        """The layer is linear in its parameters: they are the derivative of Σ d_i · layer(a_i; θ) at any θ, as zero."""
        slots = self.slots()
        wide = torch.promote_types(self.d.dtype, torch.float32)
        zeros = {name: self._zeros(name, wide) for name in {"weight", *slots}}
        rows = [value[span] if isinstance(value, Tensor) else value for value in self._as(wide)]

        def score(values: dict[str, Tensor], d: Tensor, tensors: list[Tensor]) -> Tensor:
            waiting = iter(tensors)
            one = tuple(next(waiting).unsqueeze(0) if isinstance(value, Tensor) else value for value in rows)
            return (self.rule.apply(self.layer, one, values["weight"], values.get("bias"))[0] * d).sum()

        of_each = torch.func.vmap(torch.func.grad(score), in_dims=(None, 0, 0))
        found = of_each(zeros, self.d[span].to(wide), [value for value in rows if isinstance(value, Tensor)])
        return {slot: found[name] for name, slot in slots.items()}

    def products(self, of: Mapping[Tensor, Tensor | None]) -> Tensor:
        """The layer is linear in its parameters θ: ⟨c_i, G⟩ is Σ_t d_it · layer(a_it; θ = G)."""
        values = {
            name: slot.rows(gradient)
            for name, slot in self.slots().items()
            if (gradient := of[slot.parameter]) is not None
        }
        dtype = next((value.dtype for value in values.values()), self.d.dtype)
        weight = values["weight"] if "weight" in values else self._zeros("weight", dtype)
        output = self.rule.apply(self.layer, self._as(dtype), weight, values.get("bias"))
        return (output * self.d).flatten(1).sum(1, dtype=sum_dtype(self.d.device))

    def _as(self, dtype: torch.dtype) -> Snapshot:
        return tuple(v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v for v in self.kept)

    def _zeros(self, name: str, dtype: torch.dtype) -> Tensor:
        own: Tensor = getattr(self.layer, name)
        slot = self.slots().get(name)
        shape = slot.rows(own).shape if slot else own.shape
        return torch.zeros(shape, dtype=dtype, device=own.device)


def projected(projection: Projection, a: Tensor, d: Tensor) -> LayerUse:
    """The use of a linear map, from its input and output gradient, shapes (b, T, ...)."""
    return LayerUse(projection, LINEAR, (a.detach(),), d.detach())
