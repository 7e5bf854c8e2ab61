"""Evaluating trial steps of a line search on the current batch, leaving no trace.

A step rule yields `Trial`s; the loop evaluates the very same micro-batches again at x - step·g_B, with the random
numbers of the first pass (dropout and augmentation must not change between trials) and with buffers put back
afterwards.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..decision import Outcome, Trial
from ..noise.isolation import random_state, set_random_state
from .gradients import dot


class LineSearch:
    """The model moved along its batch gradient g_B and back.

    Args:
        model: whose buffers the trials change.
        parameters: they hold x and their gradients g_B, complete, finite and clipped where that is wanted.
        gradient_norm2: ‖g_B‖².
        slope: ⟨g, g_B⟩ with the gradient g before it was clipped; None where it was not.
    """

    @torch.no_grad()
    def __init__(
        self, model: nn.Module, parameters: Iterable[Tensor], gradient_norm2: float, slope: float | None = None
    ) -> None:
        self._parameters: list[Tensor] = [p for p in parameters if p.grad is not None]
        self._origin = [p.detach().clone() for p in self._parameters]
        self._direction: list[Tensor] = [p.grad for p in self._parameters if p.grad is not None]
        self._buffers = [(b, b.clone()) for b in model.buffers()]
        self._device = self._parameters[0].device
        self._random = random_state(self._device)
        self._gradient_norm2 = gradient_norm2
        self._slope = gradient_norm2 if slope is None else slope
        self.trial = Trial(0.0)

    @torch.no_grad()
    def move(self, trial: Trial) -> None:
        """Put the model at x - trial.step · g_B, with no gradients."""
        self.trial = trial
        torch._foreach_copy_(self._parameters, self._origin)
        torch._foreach_add_(self._parameters, self._direction, alpha=-trial.step)
        for parameter in self._parameters:
            parameter.grad = None
        torch.clear_autocast_cache()

    @torch.no_grad()
    def outcome(self, loss: float, scale: float) -> Outcome:
        """What the rule asked for; gradients gathered at the trial point count `scale` times.

        ν = ⟨Δx, Δg⟩/‖Δx‖² with Δx = -step·g_B is (⟨g, g_B⟩ - ⟨g_B, g'⟩)/(step·‖g_B‖²).
        """
        if not self.trial.gradient or self.trial.step == 0 or not math.isfinite(loss):
            return Outcome(loss)
        there = [(p.grad, d) for p, d in zip(self._parameters, self._direction, strict=True) if p.grad is not None]
        slope = scale * dot(*zip(*there, strict=True)) if there else 0.0
        return Outcome(loss, (self._slope - slope) / (self.trial.step * self._gradient_norm2))

    @torch.no_grad()
    def leave(self) -> None:
        """Put parameters, gradients, buffers and random numbers back as they were before the first trial."""
        torch._foreach_copy_(self._parameters, self._origin)
        for parameter, direction in zip(self._parameters, self._direction, strict=True):
            parameter.grad = direction
        for buffer, kept in self._buffers:
            buffer.copy_(kept)
        set_random_state(self._random, self._device)
        torch.clear_autocast_cache()
