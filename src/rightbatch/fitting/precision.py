"""Numbers of lower precision in the forward pass, by torch.autocast."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import InputError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Precision:
    """How passes are computed.

    Args:
        name: None for the model's own precision, "bf16" or "fp16".
        device: the model's.

    Raises:
        InputError: another name.
    """

    name: str | None
    device: torch.device

    def __post_init__(self) -> None:
        if self.name is not None and (not isinstance(self.name, str) or self.name not in DTYPES):
            raise InputError(f"precision={self.name!r} is not supported: give None, 'bf16' or 'fp16'.")

    def passes(self) -> AbstractContextManager[Any]:
        """Within, forward passes are computed in it."""
        return nullcontext() if self.name is None else torch.autocast(self.device.type, DTYPES[self.name])

    def scaler(self) -> torch.amp.GradScaler | None:
        """What keeps gradients of float16 from vanishing; None where they do not."""
        return torch.amp.GradScaler(self.device.type) if self.name == "fp16" else None
