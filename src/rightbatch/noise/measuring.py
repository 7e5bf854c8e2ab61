"""One gradient, looked at closely: `rightbatch.measure`."""

import math
import time
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..errors import InputError, UnsupportedError
from ..evidence import Measurement
from .coverage import coupled
from .gradient_norm import squared_norm
from .isolation import devices_of, random_state, set_random_state, untouched
from .jackknife import jackknife
from .micro_batch import MicroBatchNorms
from .passes import listed, per_example_sum
from .reference import Loss, example_gradients, flat
from .sharing import norms2_of
from .taps import Taps

METHODS = ("auto", "per-example", "micro-batch")
GROUPS = 8
TOLERANCE = 1e-3  # relative; float32 gradients of one example and of a batch agree to about 1e-5


def measure(model: nn.Module, loss: Loss, x: Tensor, y: Tensor, *, method: str = "auto") -> Measurement:
    """Measure the gradient noise on one batch, exactly where that is defined, leaving no trace in the model.

    Supported layers are read in one backward pass, and the reading is checked on one example alone; other models take
    a backward pass for each example. Where examples are coupled, as by BatchNorm in training mode, no per-example
    gradient exists and 8 micro-batches are compared instead; `reason` says which way was taken and why. Standard
    errors are exact jackknife values, for micro-batches from their spread.

    Args:
        model: in the mode it is to be measured in.
        loss: (output, target) -> the mean loss over the examples, a scalar.
        x: inputs, shape (b, ...), on the model's device; b at least 2.
        y: targets, shape (b, ...).
        method: "auto"; "per-example" to refuse anything not exact; "micro-batch".

    Returns:
        V̂, ŝ and ‖g_B‖² in units of one example's gradient, with their errors, method and cost.

    Raises:
        InputError: data, model or loss cannot be measured.
        UnsupportedError: "per-example" was asked for and is not defined.
    """
    parameters = _checked(model, x, y, method)
    start = time.perf_counter()
    with untouched(model):
        found = _measured(model, loss, x, y, method, parameters)
    return replace(found, cost_s=time.perf_counter() - start)


def _measured(
    model: nn.Module, loss: Loss, x: Tensor, y: Tensor, method: str, parameters: list[nn.Parameter]
) -> Measurement:
    if method == "micro-batch":
        return _by_micro_batches(model, loss, x, y, parameters, "asked for")
    coupling = coupled(model)
    if not coupling:
        try:
            return _by_taps(model, loss, x, y, parameters)
        except UnsupportedError as error:
            because = str(error)
        try:
            return _one_by_one(model, loss, x, y, parameters, because)
        except UnsupportedError as error:
            because = str(error)
    else:
        because = listed(coupling)
    if method == "per-example":
        raise UnsupportedError(f"{because}; use method='micro-batch'")
    return _by_micro_batches(model, loss, x, y, parameters, because)


def _by_taps(model: nn.Module, loss: Loss, x: Tensor, y: Tensor, parameters: list[nn.Parameter]) -> Measurement:
    """All per-example norms and inner products from one backward pass."""
    taps = Taps(model, keep=True)
    devices = devices_of(model)
    before = random_state(*devices)
    run = taps.begin(len(x))
    try:
        value = _loss(model, loss, x, y)
        taps.remove()
        taps.verify(value)
        drew = not all(map(torch.equal, before, random_state(*devices)))
        gradients = torch.autograd.grad(value, parameters, allow_unused=True)
    finally:
        taps.remove()
    taps.check(run)
    b, uses = len(x), taps.uses(run)
    of: dict[Tensor, Tensor | None] = dict(zip(parameters, gradients, strict=True))
    n = per_example_sum(norms2_of(uses)).cpu().double() * b * b
    p = per_example_sum([use.products(of) for use in uses]).cpu().double() * b
    if not drew:
        _check_first(model, loss, x, y, n)
    return jackknife(n, p, squared_norm(gradients), "all examples in one backward pass")


def _check_first(model: nn.Module, loss: Loss, x: Tensor, y: Tensor, norms2: Tensor) -> None:
    """Compare the first example with its own backward pass: finds positions taken for examples, and coupled losses."""
    alone = next(_alone(model, loss, x[:1], y[:1])).square().sum()
    if not torch.isclose(alone, norms2[0], rtol=TOLERANCE, atol=TOLERANCE * norms2.mean().item()):
        raise UnsupportedError(
            f"the squared gradient norm of the first example is {alone.item():.4g} alone and {norms2[0].item():.4g} "
            "within its batch: a layer's first dimension does not count examples, or the loss is no mean over them"
        )


def _one_by_one(
    model: nn.Module, loss: Loss, x: Tensor, y: Tensor, parameters: list[nn.Parameter], because: str
) -> Measurement:
    """A backward pass for each example, twice: for the mean gradient and for the inner products with it."""
    b = len(x)
    devices = devices_of(model)
    before = random_state(*devices)
    value = _loss(model, loss, x, y)
    drew = not all(map(torch.equal, before, random_state(*devices)))
    whole = flat(torch.autograd.grad(value, parameters, allow_unused=True), parameters)
    set_random_state(before, *devices)
    norms2, mean = [], torch.zeros_like(whole)
    for g in _alone(model, loss, x, y):
        norms2.append(g.square().sum())
        mean += g / b
    n = torch.stack(norms2)
    apart, size = (mean - whole).norm().item(), n.mean().sqrt().item()
    if not drew and (b * mean - whole).norm().item() <= TOLERANCE * size < apart:
        raise InputError(f"the loss is a sum over the {b} examples; it must be their mean: use reduction='mean'")
    if not drew and apart > TOLERANCE * size:
        raise UnsupportedError("the examples are coupled: the batch gradient is not the mean of those of its examples")
    set_random_state(before, *devices)  # the same dropout masks again
    p = torch.stack([g @ mean for g in _alone(model, loss, x, y)])
    return jackknife(n, p, mean.square().sum().item(), f"one backward pass per example: {because}")


def _alone(model: nn.Module, loss: Loss, x: Tensor, y: Tensor) -> Iterator[Tensor]:
    try:
        yield from example_gradients(model, lambda output, target: _value(output, target, loss), x, y)
    except (RuntimeError, IndexError) as error:
        raise UnsupportedError(f"the model cannot take one example alone ({error})") from error


def _by_micro_batches(
    model: nn.Module, loss: Loss, x: Tensor, y: Tensor, parameters: list[nn.Parameter], because: str
) -> Measurement:
    """Mean gradients of a few micro-batches."""
    b, count = len(x), min(GROUPS, len(x) // 2)
    if count < 2:
        raise InputError(f"micro-batches of 2 or more need at least 4 examples, {b} were given ({because})")
    norms, mean = MicroBatchNorms(), torch.zeros(())
    for part_x, part_y in zip(x.tensor_split(count), y.tensor_split(count), strict=True):
        value = _loss(model, loss, part_x, part_y)
        g = flat(torch.autograd.grad(value, parameters, allow_unused=True), parameters)
        norms.add(len(part_x), g.square().sum().item())
        mean = mean + g * (len(part_x) / b)
    return norms.measurement(mean.square().sum().item(), b, f"{count} micro-batches: {because}")


def _loss(model: nn.Module, loss: Loss, x: Tensor, y: Tensor) -> Tensor:
    return _value(model(x), y, loss)


def _value(output: Tensor, target: Tensor, loss: Loss) -> Tensor:
    """The loss, checked."""
    try:
        value = loss(output, target)
    except (TypeError, AttributeError) as error:
        if isinstance(output, Tensor):
            raise
        raise InputError(
            f"the model returned a {type(output).__name__}, which the loss cannot take ({error}); "
            "pick the tensor in the loss: loss=lambda output, target: criterion(output[0], target)"
        ) from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        given = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise InputError(f"the loss is {given}; it must be a scalar, the mean over the examples: use reduction='mean'")
    if not math.isfinite(value.item()):
        raise InputError(f"the loss is {value.item()}; check the inputs and targets for NaN, and the parameters")
    if value.grad_fn is None:
        raise InputError("the loss does not depend on the trainable parameters; is the model's forward under no_grad?")
    return value


def _checked(model: nn.Module, x: Tensor, y: Tensor, method: str) -> list[nn.Parameter]:
    """The trainable parameters; refuses what cannot be measured."""
    if method not in METHODS:
        raise InputError(f"method={method!r} was given; it is one of {', '.join(METHODS)}")
    if not (isinstance(x, Tensor) and isinstance(y, Tensor)):
        raise InputError(f"x and y must be tensors, not {type(x).__name__} and {type(y).__name__}: use torch.as_tensor")
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
        raise InputError(
            f"x has shape {tuple(x.shape)} and y {tuple(y.shape)}; their first dimensions must be the examples"
        )
    if len(x) < 2:
        raise InputError(f"{len(x)} example was given; the noise needs at least 2")
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise InputError("the model has no trainable parameters; set requires_grad on those to be trained")
    return parameters
