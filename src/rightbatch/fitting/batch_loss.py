"""What one batch costs: a loss of output and target, or an objective of model and batch."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..data.nest import leaves, rows_of
from ..errors import InputError
from .units import UnitLoss

Objective = Callable[[nn.Module, Any], Any]


@dataclass(slots=True)
class BatchResult:
    """One forward pass.

    Args:
        loss: mean over the units of the batch.
        weight: how many units these are; None for its samples.
        outputs: for metrics; None if there are none.
        targets: for metrics.
    """

    loss: Tensor
    weight: Tensor | float | None = None
    outputs: Any = None
    targets: Any = None


class BatchLoss(ABC):
    """Computes the loss of a batch."""

    ignored: int | None = None  # the class that counts neither in the loss nor in the accuracy

    @abstractmethod
    def __call__(self, model: nn.Module, batch: Any) -> BatchResult:
        """Return the mean loss of a batch, with its units."""

    @abstractmethod
    def forward(self, model: nn.Module, batch: Any) -> None:
        """Only run the model on the inputs of a batch, as for the statistics of BatchNorm."""


class PairLoss(BatchLoss):
    """`loss(output, target)` of batches that are pairs (input, target).

    Args:
        unit: the loss and its units.
    """

    def __init__(self, unit: UnitLoss) -> None:
        self.unit, self.ignored = unit, unit.ignored

    def __call__(self, model: nn.Module, batch: Any) -> BatchResult:
        x, y = batch
        output = call_model(model, x)
        loss, weight = self.unit(output, y)
        return BatchResult(loss, weight, output, y)

    def forward(self, model: nn.Module, batch: Any) -> None:
        call_model(model, batch[0])


class ObjectiveLoss(BatchLoss):
    """`objective(model, batch)`: the mean loss, or (loss, weight), or (loss, weight, outputs).

    Args:
        objective: the function.
    """

    def __init__(self, objective: Objective) -> None:
        self._objective = objective

    def __call__(self, model: nn.Module, batch: Any) -> BatchResult:
        found = self._objective(model, batch)
        parts = tuple(found) if isinstance(found, tuple | list) else (found,)
        if not 1 <= len(parts) <= 3 or not isinstance(parts[0], Tensor) or parts[0].numel() != 1:
            raise InputError(
                "objective must return the mean loss, (loss, weight) or (loss, weight, outputs); got "
                f"{_described(found)}."
            )
        loss, weight, outputs = (*parts, None, None)[:3]
        if isinstance(weight, np.number):
            weight = weight.item()
        if weight is not None and (not isinstance(weight, Tensor | int | float) or _numbers(weight) != 1):
            raise InputError(
                f"The weight that objective returns must be one number, got {_described(weight)}: return outputs after "
                "it, as (loss, weight, outputs), with None as weight if the units are the samples."
            )
        if len(parts) < 3:
            return BatchResult(loss, weight)
        if isinstance(outputs, tuple | list) and len(outputs) == 2:
            return BatchResult(loss, weight, *outputs)
        return BatchResult(
            loss, weight, outputs, batch[1] if isinstance(batch, tuple | list) and len(batch) == 2 else None
        )

    def forward(self, model: nn.Module, batch: Any) -> None:
        self._objective(model, batch)


def _numbers(weight: Tensor | float) -> int:
    return weight.numel() if isinstance(weight, Tensor) else 1


def call_model(model: nn.Module, x: Any) -> Any:
    """The model's output: a tuple of inputs is passed as arguments, a mapping as keyword arguments."""
    if isinstance(x, Tensor):
        return model(x)
    if isinstance(x, tuple | list):
        return model(*x)
    return model(**x) if isinstance(x, Mapping) else model(x)


def samples_of(batch: Any, fetched: int) -> int:
    """Number of rows of a batch; the number fetched if it has none, or its tensors disagree, as of a graph."""
    try:
        return rows_of(batch)
    except Exception:
        return fetched


def require_objective(objective: Any, loss: Any) -> None:
    """Raise for an objective that cannot be called, or beside a loss.

    Raises:
        InputError: naming the argument.
    """
    if objective is None:
        return
    if loss is not None:
        raise InputError("loss and objective are both given: pass one of them.")
    if isinstance(objective, type | nn.Module) or not callable(objective):
        raise InputError(
            f"objective must be a function of model and batch, got {objective!r}: write "
            "objective=lambda model, batch: model(**batch).loss."
        )


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, tuple | list):
        return f"{len(value)} values, the first {_described(value[0])}" if value else "no values"
    return f"a {type(value).__name__}"


def first_tensor(nest: Any) -> Tensor | None:
    """The first leaf that is a tensor."""
    return next((leaf for leaf in leaves(nest) if isinstance(leaf, Tensor)), None)
