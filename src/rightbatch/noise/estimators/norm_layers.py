"""The gradient noise of the normalisation layers alone, which follows that of a whole transformer."""

from collections import Counter
from dataclasses import replace
from typing import ClassVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from ...errors import UnsupportedError
from ...measurements import Measurement
from ..layers.coverage import couples, trained
from .per_example import PerExampleNorms

NORMALISING = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, _InstanceNorm, _BatchNorm)


class NormLayerNorms(PerExampleNorms):
    """Exact per-example norms, read of the scales and shifts of normalisation layers and of nothing else.

    Everything in its measurements is of these parameters alone: ‖G‖², V̂ and ŝ are a small part of the model's, and
    V̂/ŝ is their own noise scale. In transformers it follows the model's, in a proportion of about one that changes in
    the course of training (docs/estimators.md); in other networks nothing is known of it. The other layers may be of
    any kind, as long as none couples the samples.

    Args:
        model: with LayerNorm, RMSNorm, GroupNorm, InstanceNorm or BatchNorm in evaluation mode, trained.

    Raises:
        UnsupportedError: no such layer, or samples are coupled.

    Reference: Gray, Tiwari, Bergsma, Hestness, "Normalization layer per-example gradients are sufficient to predict
    gradient noise scale in transformers" (2024).
    """

    name: ClassVar[str] = "norm-layers"

    def __init__(self, model: nn.Module) -> None:
        layers = [m for m in model.modules() if isinstance(m, NORMALISING) and trained(m) and not couples(m)]
        if not layers:
            raise UnsupportedError(
                f"{type(model).__name__} has no normalisation layer with a trained scale or shift and without batch "
                "statistics; use 'per-example' or 'micro-batch'"
            )
        super().__init__(model, only=layers)
        counts = Counter(type(layer).__name__ for layer in layers)
        weights = sum(p.numel() for layer in layers for _, p in trained(layer))
        everything = sum(p.numel() for p in model.parameters() if p.requires_grad)
        found = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        self._reason = f"{found} only: {weights} of {everything} weights"

    @property
    def description(self) -> str:
        return "exact per-example norms of the normalisation layers alone"

    def measurement(self, gradient_norm2: float, samples: int, scale: float = 1.0) -> Measurement:
        """The noise of the normalisation layers in the batch seen so far, from the gradients now in the parameters.

        `gradient_norm2` is replaced by their own. Otherwise as `PerExampleNorms.measurement`.
        """
        found = super().measurement(gradient_norm2, samples, scale)
        return replace(found, method=self.name, reason=self._reason)
