"""The mean loss of one batch, to be differentiated on all of its samples or on some."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..data.nest import rows_of, take, tensors
from ..errors import InputError, UnsupportedError
from .graph import within
from .isolation import devices_of, random_state, set_random_state
from .reference import flat

Loss = Callable[[Tensor, Tensor], Tensor]
Gradients = tuple[Tensor | None, ...]
ALL = slice(None)


@dataclass(frozen=True, eq=False)
class Objective:
    """The loss of a model on a batch, checked whenever it is computed.

    Args:
        model: in the mode it is to be measured in.
        loss: (output, target) -> the mean loss over the samples, a scalar; if y is None, (model, batch) -> that.
        x: inputs, shape (b, ...), or the batch.
        y: targets, shape (b, ...), or None.
        parameters: the trainable ones, in the model's order.
    """

    model: nn.Module
    loss: Callable[[Any, Any], Tensor]
    x: Any
    y: Any
    parameters: list[nn.Parameter]

    @property
    def samples(self) -> int:
        """B."""
        return rows_of(self.x)

    @property
    def device(self) -> torch.device:
        """That of the samples."""
        return tensors(self.x)[0].device

    def value(self, rows: slice | Tensor = ALL) -> Tensor:
        """The mean loss over some of the samples.

        Raises:
            InputError: it is not a finite scalar that depends on the parameters.
        """
        if self.y is None:
            return self._checked_value(self.loss(self.model, take(self.x, rows)))
        return self._checked(self.model(take(self.x, rows)), take(self.y, rows))

    def gradients(self, rows: slice | Tensor = ALL) -> Gradients:
        """The gradient of the mean loss over some of the samples, for each parameter; None where it is unused."""
        return self.differentiated(self.value(rows))

    def differentiated(self, value: Tensor) -> Gradients:
        """The gradient of a loss, for each parameter; None where it is unused.

        Raises:
            InputError: a reentrant checkpoint is in its graph, and with it parameters that torch does not see there.
        """
        if within(value, "CheckpointFunctionBackward"):
            raise InputError(
                "the model uses checkpoint(..., use_reentrant=True), which hides parameters from torch.autograd.grad: "
                "give use_reentrant=False, or measure with method='sketch'"
            )
        return torch.autograd.grad(value, self.parameters, allow_unused=True)

    def alone(self, samples: slice = ALL) -> Iterator[Tensor]:
        """The gradient of each sample, from a pass of its own, as one float64 vector on the CPU.

        Raises:
            UnsupportedError: the model cannot take one sample.
        """
        try:
            for i in range(self.samples)[samples]:
                yield flat(self.differentiated(self.value(slice(i, i + 1))), self.parameters)
        except (RuntimeError, IndexError) as error:
            raise UnsupportedError(f"the model cannot take one sample alone ({error})") from error

    def random_state(self) -> list[Tensor]:
        """The states of the generators that the forward pass may draw from."""
        return random_state(*devices_of(self.model))

    def set_random_state(self, states: list[Tensor]) -> None:
        """Let the next forward pass draw what one did that began at `states`, such as its dropout masks."""
        set_random_state(states, *devices_of(self.model))

    def drew_since(self, states: list[Tensor]) -> bool:
        """Whether random numbers have been drawn since."""
        return not all(map(torch.equal, states, self.random_state()))

    def _checked(self, output: Any, target: Tensor) -> Tensor:
        try:
            value = self.loss(output, target)
        except (TypeError, AttributeError) as error:
            if isinstance(output, Tensor):
                raise
            raise InputError(
                f"the model returned a {type(output).__name__}, which the loss cannot take ({error}); "
                "pick the tensor in the loss: loss=lambda output, target: criterion(output[0], target)"
            ) from error
        return self._checked_value(value)

    def _checked_value(self, value: Any) -> Tensor:
        value = value[0] if isinstance(value, tuple) and value else value  # (loss, weight, ...) of an objective
        if not isinstance(value, Tensor) or value.numel() != 1:
            given = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise InputError(
                f"the loss is {given}; it must be a scalar, the mean over the samples: use reduction='mean'"
            )
        if not math.isfinite(value.item()):
            raise InputError(f"the loss is {value.item()}; check the inputs and targets for NaN, and the parameters")
        if value.grad_fn is None:
            raise InputError(
                "the loss does not depend on the trainable parameters; is the model's forward under no_grad?"
            )
        return value
