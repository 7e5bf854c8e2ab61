"""Torch's own losses, as modules, functions or partials: which one it is, with what settings, and on what targets."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]
IGNORED = -100  # torch's default of ignore_index
_FUNCTIONS: Mapping[type, Callable[..., Tensor]] = {
    nn.CrossEntropyLoss: F.cross_entropy,
    nn.NLLLoss: F.nll_loss,
    nn.MultiMarginLoss: F.multi_margin_loss,
    nn.MSELoss: F.mse_loss,
    nn.L1Loss: F.l1_loss,
    nn.SmoothL1Loss: F.smooth_l1_loss,
    nn.HuberLoss: F.huber_loss,
    nn.BCELoss: F.binary_cross_entropy,
    nn.BCEWithLogitsLoss: F.binary_cross_entropy_with_logits,
    nn.SoftMarginLoss: F.soft_margin_loss,
    nn.MultiLabelSoftMarginLoss: F.multilabel_soft_margin_loss,
    nn.PoissonNLLLoss: F.poisson_nll_loss,
    nn.KLDivLoss: F.kl_div,
}
_OF_CLASSES = (F.cross_entropy, F.nll_loss, F.multi_margin_loss)
_BINARY = (F.binary_cross_entropy, F.binary_cross_entropy_with_logits, F.multilabel_soft_margin_loss)


def mean_squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Mean of the squared differences; outputs (b, 1) are compared with targets (b,) one by one, not all with all."""
    return F.mse_loss(output.reshape(target.shape) if output.numel() == target.numel() else output, target)


@dataclass(frozen=True, slots=True)
class FloatTargets:
    """One of torch's own losses for integer targets, which it receives as floating-point numbers."""

    loss: Loss

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss; targets get the type of the outputs, but at least float32."""
        return self.loss(output, target.to(torch.promote_types(output.dtype, torch.float32)))


@dataclass(frozen=True, slots=True)
class TorchLoss:
    """What is known of one of torch's own losses.

    Args:
        function: its function in torch.nn.functional; None for one that is not listed here.
        settings: the arguments it was given.
    """

    function: Callable[..., Tensor] | None
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        """As in torch.nn.functional."""
        return "the loss" if self.function is None else self.function.__name__

    @property
    def of_classes(self) -> bool:
        """Whether integer targets are the numbers of classes."""
        return self.function in _OF_CLASSES

    @property
    def elementwise(self) -> bool:
        """Whether each output is compared with one target."""
        return self.function in _FUNCTIONS.values() and not self.of_classes

    @property
    def target_range(self) -> tuple[int, int] | None:
        """Between which numbers targets must lie; None for any."""
        if self.function in _BINARY:
            return 0, 1
        return (-1, 1) if self.function is F.soft_margin_loss else None

    @property
    def ignored(self) -> int | None:
        """The class that is not counted."""
        if self.function not in (F.cross_entropy, F.nll_loss):
            return None
        return int(self.settings.get("ignore_index", IGNORED))

    @property
    def is_sum(self) -> bool:
        """Whether it adds up the losses of the samples."""
        return bool(self.settings.get("reduction", "mean") == "sum")


def torch_loss(loss: Any) -> TorchLoss | None:
    """What is known of `loss`, if it is one of torch's own; None otherwise."""
    if isinstance(loss, FloatTargets):
        return torch_loss(loss.loss)
    if isinstance(loss, partial):
        inner = torch_loss(loss.func)
        return None if inner is None else TorchLoss(inner.function, {**inner.settings, **loss.keywords})
    if isinstance(loss, nn.Module) and type(loss).forward.__module__ == "torch.nn.modules.loss":
        function = next((f for kind, f in _FUNCTIONS.items() if type(loss).forward is vars(kind)["forward"]), None)
        return TorchLoss(function, {**vars(loss), "weight": getattr(loss, "weight", None)})
    if getattr(loss, "__module__", "") == "torch.nn.functional":
        return TorchLoss(loss if loss in _FUNCTIONS.values() else None, {})
    return None
