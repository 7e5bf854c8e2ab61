"""What the mean of a loss is over: units of torch's own losses, and what a few samples tell of any other."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data import Source
from ..data.nest import rows_of
from .torch_losses import Loss as Loss
from .torch_losses import mean_squared_error, torch_loss

PROBES = 16  # samples whose losses are compared
SAME = 1e-4  # relative: losses in float32 differ by rounding
ROUNDING = 1e-6  # relative: of the same sum, added up in another order
WEIGHED = (F.cross_entropy, F.nll_loss)


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
        ignored: the class that does not count, if some targets may have it.
    """

    loss: Loss
    kind: Kind = Kind.MEAN
    counts: Callable[[Tensor], Tensor] | None = None
    known: bool = True
    ignored: int | None = None

    def __call__(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor | int]:
        """The mean loss of a pass, and over how many units it is."""
        value = self.loss(output, target)
        if self.counts is not None:
            return value, self.counts(target)
        samples = len(target) if isinstance(target, Tensor) else rows_of(target)
        return (value / samples if self.kind is Kind.SUM else value), samples


def unit_loss(loss: Loss, source: Source) -> UnitLoss:
    """What is known of a loss: everything of torch's own, of others nothing.

    Cross-entropy and the negative log-likelihood are a mean over the targets that are not `ignore_index`, each counting
    with the weight of its class; a loss with reduction="sum" is a sum.
    """
    own = torch_loss(loss)
    if own is None:
        return UnitLoss(loss, known=loss is mean_squared_error)
    if own.is_sum:
        return UnitLoss(loss, Kind.SUM)
    if own.function not in WEIGHED or not source.labelled or source.y_dtype.is_floating_point:
        return UnitLoss(loss)
    weight, ignored = own.settings.get("weight"), own.ignored
    assert ignored is not None
    absent = source.y_range is not None and not source.y_range[0] <= ignored <= source.y_range[1]
    if weight is None and absent:
        return UnitLoss(loss)
    return UnitLoss(loss, counts=partial(_counted, weight, ignored), ignored=None if absent else ignored)


def _counted(weight: Tensor | None, ignored: int, target: Tensor) -> Tensor:
    counts = target != ignored
    if weight is None:
        return counts.sum()
    return weight.to(target.device)[target[counts]].sum()


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

    def over(part: slice) -> tuple[float, None]:
        return float(loss(output[part], target[part])), None

    return kind_over(over, min(len(target), PROBES))


def kind_over(loss_over: Callable[[slice], tuple[float, float | None]], samples: int) -> Kind:
    """The same from a function of a slice of some samples to their loss and its units, None for the samples.

    A loss that draws random numbers, which differs when it is computed twice, is a mean unless it is clearly a sum.
    """
    if samples < 4:
        return Kind.MEAN
    cut = samples // 3  # unequal parts, so that a plain mean of their losses is not that of the samples
    parts = [slice(0, cut), slice(cut, samples), slice(0, samples)]
    (first, a), (second, b), (whole, _) = (loss_over(part) for part in parts)
    if not all(map(math.isfinite, (first, second, whole))):
        return Kind.MEAN  # nothing can be said; training will find out
    weights = (cut, samples - cut) if a is None or b is None else (a, b)
    if not sum(weights):
        return Kind.MEAN
    near = SAME * max(abs(first), abs(second), abs(whole))
    from_mean = abs(whole - (weights[0] * first + weights[1] * second) / sum(weights))
    from_sum = abs(whole - first - second)
    if from_mean <= near:
        return Kind.MEAN
    again, _ = loss_over(parts[2])
    if not abs(whole - again) <= ROUNDING * abs(whole):
        return Kind.SUM if from_sum < from_mean / 4 else Kind.MEAN
    return Kind.SUM if from_sum <= near else Kind.NEITHER
