"""What a caller may give to `backward`: the mean loss of a micro-batch, not scaled, and the number of its units."""

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import InputError
from .coupling import coupling

LEAST_SCALE = 2.0**8  # a power of two so large that a loss is multiplied by is the scale of a GradScaler


def require_loss(loss: object, differentiable: bool) -> None:
    """Raise for what is not the loss of a micro-batch.

    Raises:
        InputError: it is not one number, or does not depend on a parameter although it is to be differentiated.
    """
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        given = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise InputError(f"The loss must be one number, the mean over the micro-batch; got {given}.")
    if differentiable and not loss.requires_grad:
        raise InputError("The loss does not depend on a trainable parameter: was it computed under no_grad?")


def units(weight: object, samples: int) -> float:
    """The weight of a pass: `weight`, or its samples where none is given.

    Raises:
        InputError: it is not a finite number of at least 0.
    """
    if weight is None:
        return float(samples)
    try:
        value = float(weight)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        value = math.nan
    if isinstance(weight, bool) or not (math.isfinite(value) and value >= 0):
        raise InputError(
            f"auto.backward(loss, weight={weight!r}): weight is the number of units the loss is the mean of, such as "
            "tokens; give a finite number of at least 0."
        )
    return value


class LossChecks:
    """Looks at losses for what is left of an older loop, or makes batches whole.

    Args:
        scaler: that of the loop, which scales losses itself.
    """

    def __init__(self, scaler: "torch.amp.GradScaler | None") -> None:
        self._scaler = scaler
        self.looks_for_coupling = True
        self._looked = False
        self._warned = self._warned_of_hooks = False

    def check(self, loss: Tensor, beside: bool, hooked: Sequence[Tensor] = ()) -> str:
        """What in the loss compares samples with each other, looked for once; empty if nothing is seen.

        Args:
            loss: about to be differentiated.
            beside: whether the parameters have gradients already that no other optimizer has used.
            hooked: the parameters, where the batch has several passes.

        Raises:
            InputError: it was multiplied by the scale of a GradScaler.
        """
        first, self._looked = not self._looked, True
        require_unscaled(loss, self._scaler, first)
        if beside and not self._warned:
            self._warned = True
            warnings.warn(
                "The parameters had gradients before auto.backward(loss), which are dropped: a batch has the gradient "
                "of the loss given to auto.backward. Add other losses to it: auto.backward(loss1 + loss2).",
                stacklevel=5,
            )
        looks = hooked and not self._warned_of_hooks
        if looks and any(p._backward_hooks or p._post_accumulate_grad_hooks for p in hooked):
            self._warned_of_hooks = True
            warnings.warn(
                "Hooks on parameters act on the gradient of each micro-batch, not on that of the batch: one that is "
                "not linear, such as clipping, gives another gradient. Give clip_norm= or clip_value= instead.",
                stacklevel=5,
            )
        found = coupling(loss) if first and self.looks_for_coupling else ""
        if found:
            warnings.warn(
                f"The loss compares samples with each other ({found}): batches are not cut into micro-batches, and the "
                "noise is that of whole batches. micro_batch= cuts them all the same.",
                stacklevel=5,
            )
        return found


def require_unscaled(loss: Tensor, scaler: "torch.amp.GradScaler | None", first: bool) -> None:
    """Raise for a loss that the caller has scaled.

    Args:
        loss: as given to `backward`.
        scaler: that of the loop, which scales the loss itself.
        first: whether to look, without a scaler, at the number the loss was multiplied by; reads the device.

    Raises:
        InputError: it was multiplied by the scale of a GradScaler.
    """
    node = loss.grad_fn
    if node is None or node.name() != "MulBackward0" or not (first or scaler is not None):
        return
    factors = [getattr(node, name, None) for name in ("_saved_self", "_saved_other")]
    scale = getattr(scaler, "_scale", None)
    for factor in factors:
        if not isinstance(factor, Tensor) or factor.ndim or factor.requires_grad:
            continue
        ours = scale is not None and factor.data_ptr() == scale.data_ptr()
        if ours or (first and _is_scale(float(factor))):
            raise InputError(
                "The loss was scaled before auto.backward(loss): give AutoBatch scaler= and auto.backward the loss "
                "itself instead of scaler.scale(loss)."
            )


def _is_scale(value: float) -> bool:
    return value >= LEAST_SCALE and value == 2.0 ** round(torch.log2(torch.tensor(value, dtype=torch.float64)).item())
