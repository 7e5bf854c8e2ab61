"""The loss a run uses when none is given, and what it demands of targets and outputs."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import Source
from ..errors import DataError, InputError, OutOfMemoryError
from ..loop.memory.forward_limit import exhausted, is_out_of_memory
from ..noise.isolation import modes_kept
from .units import Loss, ignored_target, mean_squared_error


def default_loss(source: Source) -> Loss:
    """Cross-entropy for integer targets, mean squared error for floating-point ones, unless the source has its own."""
    return source.loss or (mean_squared_error if source.y_dtype.is_floating_point else F.cross_entropy)


def is_cross_entropy(loss: Loss) -> bool:
    """Whether `loss` is torch's cross-entropy, as a function or a module."""
    while isinstance(loss, partial):
        loss = loss.func
    return loss is F.cross_entropy or isinstance(loss, nn.CrossEntropyLoss)


def require_fitting(model: nn.Module, loss: Loss, source: Source, what: str = "train") -> None:
    """Try model and loss on two samples, without a trace, and check targets against outputs.

    Raises:
        InputError: the output is not one tensor, the loss is not one finite-shaped number, or they do not go together.
        DataError: targets that the loss cannot take.
        OutOfMemoryError: these two do not fit into memory.
    """
    parameter = next(model.parameters(), None)
    device = parameter.device if parameter is not None else torch.device("cpu")
    x, y = source.fetch(torch.arange(min(2, len(source))))
    with _tried(device, len(x), f"The {what} samples cannot be brought to {device}"):
        x, y = x.to(device), y.to(device)
    if parameter is not None and x.is_floating_point() and parameter.is_floating_point() and x.dtype != parameter.dtype:
        raise InputError(
            f"The model's parameters are {parameter.dtype}, the {what} inputs {x.dtype}; convert one of them, "
            f"for instance model.to({x.dtype})."
        )
    if is_cross_entropy(loss) and y.is_floating_point() and y.dim() < 2:
        raise DataError(
            f"Cross-entropy needs integer class targets (int64), the {what} targets are {y.dtype}; convert them with "
            ".long(), or use a regression loss such as torch.nn.functional.mse_loss."
        )
    output = _output(model, x)
    if is_cross_entropy(loss) and not y.is_floating_point():
        _require_classes(source, output, ignored_target(loss), what)
    shapes = f"the model's output {tuple(output.shape)} with targets {tuple(y.shape)} ({y.dtype})"
    with _tried(device, len(x), f"The loss cannot compare {shapes}"):
        value = loss(output, y)
    if not isinstance(value, Tensor) or value.numel() != 1:
        given = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"The loss must return one number, the mean over the samples; it returned {given}.")


@contextmanager
def _tried(device: torch.device, samples: int, complaint: str) -> Iterator[None]:
    """Without gradients; an error within is raised with the complaint, unless memory ran out."""
    try:
        with torch.no_grad():
            yield
    except (RuntimeError, ValueError, IndexError, TypeError, MemoryError) as error:
        if is_out_of_memory(error):
            why = "on which model and loss are tried before training"
            raise exhausted(str(device), None, samples, why) from error
        raise InputError(f"{complaint}: {_first_line(error)}") from error


def _output(model: nn.Module, x: Tensor) -> Tensor:
    state = torch.get_rng_state()
    try:
        with modes_kept(model), _tried(x.device, len(x), f"The model cannot take inputs of shape {tuple(x.shape)}"):
            output = model.eval()(x)
    finally:
        torch.set_rng_state(state)
    if not isinstance(output, Tensor):
        raise InputError(
            f"The model returns a {type(output).__name__}; one tensor is needed. Wrap the model in a module that "
            "returns the output the loss is computed from."
        )
    return output


def _require_classes(source: Source, output: Tensor, ignored: int, what: str) -> None:
    classes = output.shape[1] if output.dim() > 1 else output.shape[0]
    if source.y_range is None:
        return
    low, high = source.y_range
    if (low < 0 and low != ignored) or (high >= classes and high != ignored):
        raise DataError(
            f"The {what} targets run from {low} to {high}, but the model has {classes} outputs: classes must be 0 to "
            f"{classes - 1}. Give the model {high + 1} outputs or renumber the targets."
        )


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def tried_output(model: nn.Module, x: Tensor) -> Tensor | None:
    """The model's output for a few samples, without a trace; None where they do not fit into memory."""
    try:
        return _output(model, x)
    except OutOfMemoryError:
        return None
