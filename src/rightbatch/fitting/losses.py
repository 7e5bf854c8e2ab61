"""The loss a run uses when none is given, and what it demands of targets and outputs."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import Source
from ..data.nest import describe_form, to_device
from ..errors import DataError, InputError, OutOfMemoryError
from ..loop.memory.forward_limit import exhausted, is_out_of_memory
from ..noise.isolation import modes_kept
from .batch_loss import BatchLoss, call_model, samples_of
from .labels import require_classes
from .torch_losses import FloatTargets, Loss, TorchLoss, mean_squared_error, torch_loss
from .units import PROBES, Kind, kind_of, kind_over


def require_loss(loss: Any) -> None:
    """Raise for what is not a function of output and target.

    Raises:
        InputError: a class instead of an instance, or not callable.
    """
    inner = loss
    while isinstance(inner, partial):
        inner = inner.func
    if isinstance(inner, type):
        name = f"nn.{inner.__name__}" if inner.__module__ == "torch.nn.modules.loss" else inner.__name__
        given = f"a partial of the class {name}" if inner is not loss else f"the class {name}"
        raise InputError(f"loss is {given}: pass an instance, loss={name}(...) with its arguments.")
    if loss is not None and not callable(loss):
        raise InputError(f"loss must be a function of output and target, got {loss!r}: write loss=F.cross_entropy.")


def loss_for(loss: Loss | None, source: Source) -> Loss:
    """The loss to use for the targets of `source`.

    None means the loss of the source if it has one, or cross-entropy for integer targets and mean squared error for
    floating-point ones. One of torch's losses that compares numbers receives integer targets as floats.

    Raises:
        InputError: a class instead of an instance, or not callable.
    """
    require_loss(loss)
    loss = default_loss(source) if loss is None else loss
    known = torch_loss(loss)
    if known is not None and known.elementwise and source.labelled and not source.y_dtype.is_floating_point:
        return FloatTargets(loss)
    return loss


def default_loss(source: Source) -> Loss:
    """Cross-entropy for integer targets, mean squared error for floating-point ones, unless the source has its own.

    Raises:
        InputError: the targets are not one tensor.
    """
    if source.loss is None and not source.labelled:
        raise InputError(f"No loss is known for targets that are not one tensor ({source.form}): pass loss=.")
    return source.loss or (mean_squared_error if source.y_dtype.is_floating_point else F.cross_entropy)


def require_fitting(model: nn.Module, loss: Loss, source: Source, what: str = "train") -> None:
    """Try model and loss on two samples, without a trace, and check targets against outputs.

    Raises:
        InputError: the loss is not one finite-shaped number, or model, loss and samples do not go together.
        DataError: targets that the loss cannot take.
        OutOfMemoryError: these two do not fit into memory.
    """
    parameter = next(model.parameters(), None)
    device = parameter.device if parameter is not None else torch.device("cpu")
    samples = min(2, len(source))
    x, y = source.fetch(torch.arange(samples))
    with _tried(device, samples, f"The {what} samples cannot be brought to {device}"):
        x, y = to_device((x, y), device)
    own = torch_loss(loss)
    if not isinstance(x, Tensor) or not isinstance(y, Tensor):
        _require_number(loss, _output(model, x, device), y, device, samples)
        return
    if parameter is not None and x.is_floating_point() and parameter.is_floating_point() and x.dtype != parameter.dtype:
        raise InputError(
            f"The model's parameters are {parameter.dtype}, the {what} inputs {x.dtype}; convert one of them, "
            f"for instance model.to({x.dtype})."
        )
    if own is not None and own.of_classes:
        _require_integers(own, y, what)
    output = _output(model, x, device)
    if not isinstance(output, Tensor):
        if own is not None or loss is mean_squared_error:
            raise InputError(
                f"The model returns a {type(output).__name__}, of which the loss needs one tensor: pick it in the "
                "loss, such as loss=lambda output, target: F.cross_entropy(output[0], target)."
            )
        _require_number(loss, output, y, device, samples)
        return
    shapes = f"the model's output {tuple(output.shape)} with targets {tuple(y.shape)} ({y.dtype})"
    if own is not None and own.of_classes:
        _require_class_targets(own, source, output, y, what)
    elif (own is not None and own.elementwise) or loss is mean_squared_error:
        if output.shape != y.shape and (own is not None or output.numel() != y.numel()):
            raise InputError(f"The loss cannot compare {shapes}: the shapes must be equal. {_reshaped(output, y)}")
        if own is not None and own.target_range is not None:
            _require_range(own.name, own.target_range, source, what)
    _require_number(loss, output, y, device, samples)
    if own is None and output.shape != y.shape and output.numel() == y.numel():
        _require_no_table(model, loss, source, device, what)


def _require_number(loss: Loss, output: Any, y: Any, device: torch.device, samples: int) -> None:
    parts = (f"({part.dtype})" if isinstance(part, Tensor) else "" for part in (output, y))
    named = [f"{describe_form(part, 0)} {dtype}".strip() for part, dtype in zip((output, y), parts, strict=True)]
    with _tried(device, samples, f"The loss cannot compare the model's output {named[0]} with targets {named[1]}"):
        value = loss(output, y)
    if not isinstance(value, Tensor) or value.numel() != 1:
        given = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"The loss must return one number, the mean over the samples; it returned {given}.")


def _require_integers(own: TorchLoss, y: Tensor, what: str) -> None:
    if y.is_floating_point() and (own.function is not F.cross_entropy or y.dim() < 2):
        name = "Cross-entropy" if own.function is F.cross_entropy else own.name
        raise DataError(
            f"{name} needs integer class targets (int64), the {what} targets are {y.dtype}; convert them with "
            ".long(), or use a regression loss such as torch.nn.functional.mse_loss."
        )


def _require_class_targets(own: TorchLoss, source: Source, output: Tensor, y: Tensor, what: str) -> None:
    classes = output.shape[1] if output.dim() > 1 else 1
    if classes == 1:
        raise InputError(
            f"{own.name} needs one output per class, the model's output has shape {tuple(output.shape)}: for two "
            "classes, give the model 2 outputs, or use nn.BCEWithLogitsLoss() with targets of the shape of the output."
        )
    if y.is_floating_point():
        return
    wanted = (output.shape[0], *output.shape[2:])
    if tuple(y.shape) != wanted:
        numbers = f"{tuple(y.shape)}, one class number for each of {wanted} is needed"
        remedy = "reshape them"
        if y.shape == output.shape:
            remedy = "of one-hot targets pass y.argmax(1), of probabilities y.float()"
        elif y.numel() == math.prod(wanted):
            remedy = "pass y[:, 0]" if tuple(y.shape) == (*wanted, 1) and len(wanted) == 1 else "reshape them"
        raise InputError(f"The {what} targets of {own.name} have shape {numbers}: {remedy}.")
    require_classes(source, classes, own.ignored, what)


def _require_range(name: str, limits: tuple[int, int], source: Source, what: str) -> None:
    """Integer targets of a binary loss, and some of the floating-point ones, lie where they must."""
    if source.y_dtype.is_floating_point:
        _, y = _some(source)
        low, high = (float(value) for value in torch.aminmax(y))
    elif source.y_range is not None:
        low, high = source.y_range
    else:
        return
    signs = limits[0] < 0
    if limits[0] <= low and high <= limits[1] and not (signs and low == 0):
        return
    remedy = "Divide or renumber them."
    if signs:
        remedy = "Convert targets 0 and 1 with 2 * y - 1."
    elif (low, high) == (-1, 1):
        remedy = "Convert targets -1 and 1 with (y + 1) / 2."
    elif (low, high) == (1, 2):
        remedy = "Subtract 1 from them."
    elif low == 0:
        remedy = f"Divide them by {high:g}, or use a loss for several classes, such as nn.CrossEntropyLoss()."
    allowed = "-1 or 1" if signs else "between 0 and 1"
    raise DataError(
        f"The targets of {name} must be {allowed}; the {what} targets run from {low:g} to {high:g}. {remedy}"
    )


def _require_no_table(model: nn.Module, loss: Loss, source: Source, device: torch.device, what: str) -> None:
    """Raise if a loss of unknown kind compares each output with every target because their shapes differ.

    It then depends on more than one sample at once, but not with outputs in the shape of the targets.
    """
    x, y = _some(source)
    x, y = x.to(device), y.to(device)
    output = tried_output(model, x)
    if output is None or kind_of(loss, output, y) is not Kind.NEITHER:
        return
    try:
        cured = kind_of(loss, output.reshape(y.shape), y) is not Kind.NEITHER
    except Exception:  # the loss reshapes the outputs itself
        return
    if cured:
        shapes = f"the model's output {tuple(output.shape)} with the {what} targets {tuple(y.shape)}"
        raise InputError(
            f"The loss compares {shapes} in a table of {len(y)} x {len(y)}, each output with every target: the shapes "
            f"must be equal. {_reshaped(output, y)}"
        )


def _reshaped(output: Tensor, y: Tensor) -> str:
    if output.numel() != y.numel():
        return "Give the model as many outputs as there are targets for a sample."
    if output.dim() == y.dim() + 1 and output.shape[-1] == 1:
        return "Pass targets y.unsqueeze(-1), or end the model with a layer nn.Flatten(0)."
    if y.dim() == output.dim() + 1 and y.shape[-1] == 1:
        return "Pass targets y.squeeze(-1)."
    return "Reshape the targets."


def _some(source: Source) -> tuple[Tensor, Tensor]:
    """A few samples: evenly spread where access is random, since data may be sorted by target; else the first."""
    if source.sequential or source.block_ends is not None:
        some = source.sample()
        x, y = some.fetch(torch.arange(min(PROBES, len(some))))
    else:
        x, y = source.fetch(torch.linspace(0, len(source) - 1, min(PROBES, len(source))).long())
    return x, y


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


def _output(model: nn.Module, x: Any, device: torch.device) -> Any:
    state = torch.get_rng_state()
    named = f"of shape {tuple(x.shape)}" if isinstance(x, Tensor) else describe_form(x, 0)
    try:
        with modes_kept(model), _tried(device, samples_of(x, 1), f"The model cannot take inputs {named}"):
            return call_model(model.eval(), x)
    finally:
        torch.set_rng_state(state)


def require_running(model: nn.Module, objective: BatchLoss, source: Source, what: str = "train") -> None:
    """Try an objective on two samples, without a trace.

    Raises:
        InputError: it fails, or does not return a mean loss of the forms that are allowed.
        OutOfMemoryError: these two do not fit into memory.
    """
    device = next(model.parameters()).device
    samples, state = min(2, len(source)), torch.get_rng_state()
    with _tried(device, samples, f"The {what} samples cannot be brought to {device}"):
        batch = to_device(source.fetch(torch.arange(samples)), device)
    failed = f"objective failed on a batch of {describe_form(batch, 0)}"
    try:
        with modes_kept(model), _tried(device, samples, failed):
            objective(model.eval(), batch)
    except (LookupError, AttributeError) as error:
        raise InputError(f"{failed}: {type(error).__name__}: {error}") from error
    finally:
        torch.set_rng_state(state)


def objective_kind(model: nn.Module, objective: BatchLoss, source: Source) -> Kind:
    """What an objective is over samples, as its values over a few and over parts of these tell."""
    some = source.sample()  # of a stream, those at its beginning
    device, state = next(model.parameters()).device, torch.get_rng_state()

    def over(part: slice) -> tuple[float, float | None]:
        batch = to_device(some.fetch(torch.arange(part.start, part.stop)), device)
        found = objective(model, batch)
        return float(found.loss), None if found.weight is None else float(found.weight)

    try:
        with modes_kept(model), torch.no_grad():
            model.eval()
            return kind_over(over, min(PROBES, len(some)))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return Kind.MEAN
    finally:
        torch.set_rng_state(state)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def tried_output(model: nn.Module, x: Any) -> Any:
    """The model's output for a few samples, without a trace; None where they do not fit into memory."""
    try:
        return _output(model, x, next(model.parameters()).device)
    except OutOfMemoryError:
        return None
