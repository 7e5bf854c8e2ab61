"""The loss of grouped samples: each group counts once, padding does not count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import InputError

IGNORED = -100  # the label that torch's cross-entropy ignores
MemberLoss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class GroupLoss:
    """The mean over groups of the mean loss of their members, ignoring padding.

        L = 1/b Σ_g 1/m_g Σ_{j present in g} ℓ(output_gj, y_gj)

    A group's gradient is then the same in any batch, as noise estimates and gradient accumulation require; with a mean
    over all members present it would depend on the sizes of the other groups. Members whose integer target is -100, or
    whose floating-point target is NaN, are padding. Without padding, torch's `cross_entropy` of outputs (b, classes, m)
    gives the same value.

    | symbol | argument | meaning |
    |---|---|---|
    | ℓ | `member_loss` | loss of each member |
    | b, m | | groups, and member slots per group |
    | m_g | | members present in group g |

    Args:
        member_loss: (outputs (b·m, ...), targets (b·m, ...)) to losses (b·m,), or (b·m, ...) averaged per member
            (default: cross-entropy for integer targets, squared error for floating-point targets).
    """

    member_loss: MemberLoss | None = None

    def __call__(self, output: Tensor, y: Tensor) -> Tensor:
        """Return the loss of outputs (b, m, ...), such as (b, m, classes), and targets (b, m, ...).

        Raises:
            InputError: there is not one output or loss per member.
        """
        if y.dim() < 2 or output.shape[:2] != y.shape[:2]:
            raise InputError(
                f"the model's output {tuple(output.shape)} and the targets {tuple(y.shape)} must both start with "
                "(groups, members): return one output per member, such as (groups, members, classes)"
            )
        absent = y.isnan() if y.is_floating_point() else y == IGNORED
        absent = absent.flatten(2).any(2) if y.dim() > 2 else absent
        y = y.masked_fill(absent.reshape(*absent.shape, *[1] * (y.dim() - 2)), 0)
        loss = self.member_loss or (_squared_error if y.is_floating_point() else _cross_entropy)
        losses = loss(output.flatten(0, 1), y.flatten(0, 1))
        if losses.dim() == 0 or len(losses) != absent.numel():
            raise InputError(
                f"member_loss returned shape {tuple(losses.shape)} for {absent.numel()} members: it must return one "
                "loss per member, as with reduction='none'"
            )
        losses = losses.flatten(1).mean(1) if losses.dim() > 1 else losses
        each = losses.reshape(absent.shape).masked_fill(absent, 0)
        return (each.sum(1) / (~absent).sum(1).clamp(min=1)).mean()


def _cross_entropy(output: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(output, y, reduction="none")


def _squared_error(output: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(output.reshape(y.shape) if output.numel() == y.numel() else output, y, reduction="none")


def padding(dtype: torch.dtype) -> float:
    """The target value of padding."""
    return float("nan") if dtype.is_floating_point else IGNORED
