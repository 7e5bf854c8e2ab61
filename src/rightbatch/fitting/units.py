"""What the mean of a loss is over: units of torch's own losses, and what a few samples tell of any other."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import Source

Loss = Callable[[Tensor, Tensor], Tensor]
PROBES = 16  # samples whose losses are compared
SAME = 1e-4  # relative: losses in float32 differ by rounding
IGNORED = -100  # torch's default of ignore_index
WEIGHED = (nn.CrossEntropyLoss, nn.NLLLoss)


def mean_squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Mean of the squared differences; outputs (b, 1) are compared with targets (b,) one by one, not all with all."""
    return F.mse_loss(output.reshape(target.shape) if output.numel() == target.numel() else output, target)


class Kind(Enum):
    """How the loss of a batch follows from those of its samples."""

    MEAN = "the mean over the units"
    SUM = "a sum"
    NEITHER = "neither"


@dataclass(frozen=True, slots=True)
class UnitLoss:
    """A loss with the number of units that it is the mean of.

    Args:
        loss: `loss(output, target)`.
        kind: what it is over the samples; of a sum the mean over the samples is taken here.
        counts: counts units of targets; None where they are the samples.
        known: whether all of this is known, the loss being one of torch's own.
    """

    loss: Loss
    kind: Kind = Kind.MEAN
    counts: Callable[[Tensor], Tensor] | None = None
    known: bool = True

    def __call__(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor | int]:
        """The mean loss of a pass, and over how many units it is."""
        value = self.loss(output, target)
        if self.kind is Kind.SUM:
            return value / len(target), len(target)
        return value, len(target) if self.counts is None else self.counts(target)


def unit_loss(loss: Loss, source: Source) -> UnitLoss:
    """What is known of a loss: everything of torch's own, of others nothing.

    Cross-entropy and the negative log-likelihood are a mean over the targets that are not `ignore_index`, each counting
    with the weight of its class; a loss with reduction="sum" is a sum.
    """
    settings = _settings(loss)
    if settings is None:
        return UnitLoss(loss, known=loss is mean_squared_error)
    if settings.get("reduction", "mean") == "sum":
        return UnitLoss(loss, Kind.SUM)
    if not settings["weighs"] or source.y_dtype.is_floating_point:
        return UnitLoss(loss)
    weight, ignored = settings.get("weight"), ignored_target(loss)
    known = source.y_range is not None and not source.y_range[0] <= ignored <= source.y_range[1]
    if weight is None and known:
        return UnitLoss(loss)
    return UnitLoss(loss, counts=partial(_counted, weight, ignored))


def ignored_target(loss: Loss) -> int:
    """The class that one of torch's own losses does not count."""
    return int((_settings(loss) or {}).get("ignore_index", IGNORED))


def _counted(weight: Tensor | None, ignored: int, target: Tensor) -> Tensor:
    counts = target != ignored
    if weight is None:
        return counts.sum()
    return weight.to(target.device)[target[counts]].sum()


def _settings(loss: Any) -> Mapping[str, Any] | None:
    """The arguments of one of torch's own losses; None for any other."""
    if isinstance(loss, partial):
        inner = _settings(loss.func)
        return None if inner is None else {**inner, **loss.keywords}
    if isinstance(loss, nn.Module) and type(loss).forward.__module__ == "torch.nn.modules.loss":
        return {**vars(loss), "weight": getattr(loss, "weight", None), "weighs": isinstance(loss, WEIGHED)}
    if getattr(loss, "__module__", "") == "torch.nn.functional" or loss is F.cross_entropy:
        return {"weighs": loss in (F.cross_entropy, F.nll_loss)}
    return None


@torch.no_grad()
def kind_of(loss: Loss, output: Tensor, target: Tensor) -> Kind:
    """What an unknown loss is over samples, as its values over some of them and over parts of these tell.

    With a batch cut into parts of a and b samples, a mean over samples is the mean of the parts' losses weighted by a
    and b; a sum is their sum. A loss that is neither couples samples, as contrastive losses do, or is a mean over units
    that samples have unequal numbers of.

    Args:
        loss: `loss(output, target)`.
        output: of the model, of a few samples.
        target: theirs.
    """
    samples = min(len(target), PROBES)
    if samples < 4:
        return Kind.MEAN
    cut = samples // 3  # unequal parts, so that a plain mean of their losses is not that of the samples
    parts = [slice(0, cut), slice(cut, samples), slice(0, samples)]
    first, second, whole = (float(loss(output[part], target[part])) for part in parts)
    if not all(map(math.isfinite, (first, second, whole))):
        return Kind.MEAN  # nothing can be said; training will find out
    near = SAME * max(abs(first), abs(second), abs(whole))
    mean = (cut * first + (samples - cut) * second) / samples
    if abs(whole - mean) <= near:
        return Kind.MEAN
    return Kind.SUM if abs(whole - first - second) <= near else Kind.NEITHER
