"""What a parameter or a layer without a dimension for the samples contributes, once it is known where they come in."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ...errors import UnsupportedError
from ..gradient_norm import row_norms2, sum_dtype
from .broadcasts import REARRANGING, BackwardStep, Route, undone
from .embedding import EMBEDDING
from .linear import BILINEAR, LINEAR
from .normalization import LAYER_NORM, RMS_NORM
from .rule import Rule, Snapshot, spans
from .uses import LayerUse, ParamUse, Slot, whole

# Layers to which all dimensions but the last are alike, so that the samples may come as one more.
ANY_DIMENSIONS = (LINEAR, BILINEAR, EMBEDDING, LAYER_NORM, RMS_NORM)


@dataclass(slots=True, eq=False)
class ParameterUse:
    """One way of a parameter into the activations.

    Args:
        kind: the type of its module.
        name: of the parameter in it.
        parameter: the parameter.
        rows: what each sample contributes to what was made of it, shape (b, ...).
        steps: what was made of it, of the same norm.
    """

    kind: str
    name: str
    parameter: Tensor
    rows: Tensor
    steps: tuple[BackwardStep, ...]

    @property
    def samples(self) -> int:
        return len(self.rows)

    def at(self, rows: Tensor) -> "ParameterUse":
        return replace(self, rows=self.rows[rows])

    def parts(self) -> Iterable[ParamUse]:
        return (self,)

    def slots(self) -> dict[str, Slot]:
        return {self.name: whole(self.parameter)}

    def norms2(self) -> Tensor:
        return row_norms2(self.rows)

    def gradients(self, span: slice) -> Mapping[Slot, Tensor]:
        return {whole(self.parameter): undone(self.rows[span], self.steps)}

    def products(self, of: Mapping[Tensor, Tensor | None]) -> Tensor:
        inner = torch.zeros(self.samples, dtype=sum_dtype(self.rows.device), device=self.rows.device)
        total = of[self.parameter]
        if total is not None:
            for span in spans(self.samples, self.parameter.numel()):
                c = undone(self.rows[span], self.steps)
                inner[span] = (c * total).reshape(len(c), -1).sum(1)
        return inner


def parameter_use(kind: str, name: str, parameter: Tensor, route: Route, d: Tensor) -> ParameterUse:
    """What a parameter contributes by one of its routes, from the gradient at the end of that."""
    if all(step.node.name() in REARRANGING for step in route.steps):
        return ParameterUse(kind, name, parameter, route.rows(d), route.steps)
    return ParameterUse(kind, name, parameter, route.contributions(d), ())


@dataclass(slots=True, eq=False)
class UnbatchedCall:
    """A call of a layer with one input for all samples, such as a table of positions.

    Args:
        layer: the layer.
        rule: its rule.
        kept: what that kept.
        shape: of its output.
        routed: whether the routes from there were found.
    """

    layer: nn.Module
    rule: Rule
    kept: Snapshot
    shape: torch.Size
    routed: bool = False

    def use(self, route: Route, d: Tensor) -> LayerUse:
        """What it contributes by one route, from the gradient at the end of that."""
        return self.repeated(route.contributions(d))

    def repeated(self, d: Tensor) -> LayerUse:
        """Its use with one input for each sample, from what each contributes to the gradient at its output.

        Raises:
            UnsupportedError: the layer gives its dimensions a meaning and lacks one for the samples.
        """
        b = len(d)
        alone = bool(self.shape) and self.shape[0] == 1
        if not alone and self.rule not in ANY_DIMENSIONS:
            raise UnsupportedError(f"has input of shape {tuple(self.kept[0].shape)}, the same for all samples")
        inner = self.shape[1:] if alone else self.shape
        kept = tuple(
            value.expand(b, *(value.shape[1:] if alone else value.shape)) if isinstance(value, Tensor) else value
            for value in self.kept
        )
        return LayerUse(self.layer, self.rule, kept, d.reshape(b, *inner))


def perhaps_unbatched(rule: Rule, kept: Snapshot, samples: int) -> bool:
    """Whether a layer's input may be one for all samples: not as long, or a list of ids that may be either."""
    rows = kept[0]
    return rows.ndim == 0 or len(rows) != samples or (rule is EMBEDDING and rows.ndim == 1)
