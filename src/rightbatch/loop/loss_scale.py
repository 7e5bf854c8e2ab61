"""What losses of low precision are multiplied by, so that their gradients do not vanish."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class LossScale:
    """The scale that the caller's scaler keeps; 1 without one, or with one that is switched off.

    Args:
        scaler: the caller's; None for none.
        device: the model's.
    """

    def __init__(self, scaler: "torch.amp.GradScaler | None", device: torch.device) -> None:
        self.scaler = scaler if scaler is not None and scaler.is_enabled() else None
        self._device = device

    @property
    def value(self) -> float:
        """The present scale; reads the device."""
        return 1.0 if self.scaler is None else float(self.scaler.get_scale())

    @property
    def can_overflow(self) -> bool:
        """Whether a gradient that is not finite may be the fault of the scale, which is then lowered."""
        return self.value > 1.0

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss to differentiate."""
        return loss if self.scaler is None else self.scaler.scale(loss)

    def adapt(self, overflowed: bool) -> None:
        """Let the scaler adapt its scale to what became of a step."""
        if self.scaler is None:
            return
        # Its public way to learn of an overflow is a gradient that it unscales itself: one of our own.
        stand_in = torch.zeros((), device=self._device, requires_grad=True)
        stand_in.grad = torch.full_like(stand_in, math.inf if overflowed else 0.0)
        self.scaler.unscale_(torch.optim.SGD([stand_in], lr=0.0))
        self.scaler.update()

    def state_dict(self) -> dict[str, Any] | None:
        """The scaler's state; None without one."""
        return None if self.scaler is None else self.scaler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Continue from `state`, where there is one and a scaler to take it."""
        if self.scaler is not None and state is not None:
            self.scaler.load_state_dict(dict(state))
