"""One gradient, looked at closely: `rightbatch.measure`."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..data.nest import rows_of
from ..errors import InputError, UnsupportedError
from ..measurements import Measurement
from .curvature import measure_curvature
from .estimators.grad_hooks import GradHooks
from .estimators.micro_batch import MicroBatchNorms
from .estimators.passes import listed, per_example_sum
from .gradient_norm import is_part, squared_norm
from .isolation import untouched
from .layers.coverage import coupled
from .layers.sharing import joined, norms2_of
from .layers.uses import ParamUse
from .layers.weighted import slot_norms2
from .methods import MeasuredModel, Noise, estimator
from .objective import Loss, Objective
from .parameter_groups import ParameterGroups
from .preconditioner import Preconditioner
from .reference import flat
from .statistics.jackknife import jackknife, jackknife_micro_batches

READ = ("sketch", "subset", "norm-layers")  # by the estimators of training, in one backward pass
METHODS = ("auto", "per-example", "micro-batch", *READ)
CURVATURES = (False, True, "noise")
GROUPS = 8
TOLERANCE = 1e-3  # relative; float32 gradients of one sample and of a batch agree to about 1e-5


def measure(
    model: nn.Module,
    loss: Loss | Callable[[nn.Module, Any], Any],
    x: Any,
    y: Any = None,
    *,
    method: str = "auto",
    optimizer: Optimizer | Preconditioner | None = None,
    curvature: bool | str = False,
) -> Measurement:
    """Measure the gradient noise on one batch, exactly where that is defined, leaving no trace in the model.

    Supported layers are read in one backward pass, and the reading is checked on one sample alone; other models take
    a backward pass for each sample. Where samples are coupled, as by BatchNorm in training mode, no per-example
    gradient exists and 8 micro-batches are compared instead; `reason` says which way was taken and why. Standard
    errors and 90 % intervals are of the jackknife over samples, or over micro-batches.

    Args:
        model: in the mode it is to be measured in.
        loss: (output, target) -> the mean loss over the samples, a scalar; without y an objective, (model, batch) ->
            that.
        x: inputs, shape (b, ...), on the model's device; b at least 2. Without y the batch, any nest.
        y: targets, shape (b, ...).
        method: "auto"; "per-example" to refuse anything not exact; "micro-batch"; or, as in training, "sketch",
            "subset" or "norm-layers", which state the error of V̂ alone. `layers` says how each layer was read, and why.
        optimizer: measures P g_i in place of g_i, P the `Preconditioner` in the optimizer's state, and also each of its
            parameter groups apart; it must have taken a step, and hold just the model's trainable parameters. Or P
            itself, such as Preconditioner(optimizer, floor=0.01).
        curvature: True for that along the gradient (along P g_B with an optimizer); "noise" for the noise scale
            weighted by it too. It takes second derivatives, or differences of gradients where the model has none.

    Returns:
        V̂, ŝ and ‖g_B‖² in units of one sample's gradient, with their errors, intervals, method and cost.

    Raises:
        InputError: data, model, loss or optimizer cannot be measured.
        UnsupportedError: "per-example" was asked for and is not defined, or the optimizer's P is not known.
    """
    objective = Objective(model, loss, x, y, _checked(model, x, y, method, curvature))
    groups = ParameterGroups(model, optimizer)
    start = time.perf_counter()
    with untouched(model):
        found = _measured(objective, groups, method)
        if curvature:
            found = replace(found, curvature=measure_curvature(objective, groups, noise=curvature == "noise"))
    if optimizer is None:
        found = replace(found, groups=())
    return replace(found, cost_s=time.perf_counter() - start)


def _measured(objective: Objective, groups: ParameterGroups, method: str) -> Measurement:
    if method == "micro-batch":
        return _by_micro_batches(objective, groups, "asked for")
    if method in READ:
        return _by_estimator(objective, groups, method)
    coupling = coupled(objective.model)
    if not coupling:
        try:
            return _by_hooks(objective, groups)
        except UnsupportedError as error:
            because = str(error)
        try:
            return _one_by_one(objective, groups, because)
        except UnsupportedError as error:
            because = str(error)
    else:
        because = listed(coupling)
    if method == "per-example":
        raise UnsupportedError(f"{because}; use method='micro-batch'")
    return _by_micro_batches(objective, groups, because)


def _by_hooks(objective: Objective, groups: ParameterGroups) -> Measurement:
    """All per-example norms and inner products from one backward pass."""
    hooks = GradHooks(objective.model, keep=True)
    before = objective.random_state()
    run = hooks.begin(objective.samples)
    try:
        value = objective.value()
        hooks.remove()
        hooks.verify(value)
        drew = objective.drew_since(before)
        gradients = objective.differentiated(value)
    finally:
        hooks.remove()
    hooks.check(run)
    b, uses, squares = objective.samples, hooks.uses(run), groups.squares(gradients)
    n = _summed(_norms2(uses, groups, squares), b) * b * b
    weighted: dict[Tensor, Tensor | None] = {
        p: g * squares[p] if g is not None and p in squares else g
        for p, g in zip(objective.parameters, gradients, strict=True)
    }
    p = _summed(_products(uses, groups, weighted), b) * b
    if not drew:
        _check_first(objective, groups.flat_squares(gradients), n.sum(0))
    found = _jackknifed(groups, n, p, groups.norms2(gradients), "all samples in one backward pass")
    return replace(found, layers=hooks.layers_exact)


def _by_estimator(objective: Objective, groups: ParameterGroups, method: str) -> Measurement:
    """What training's estimator of that name says of this batch."""
    if groups.metric or groups.count > 1:
        raise UnsupportedError(f"method={method!r} measures all parameters in the plain metric: leave optimizer out")
    settings = Noise(method=method)
    reader = estimator(method, MeasuredModel(objective.model, objective.parameters, None, settings))
    kept = [p.grad for p in objective.parameters]
    reader.arm(objective.samples)
    try:
        for parameter in objective.parameters:
            parameter.grad = None
        value = objective.value()
        reader.verify(value)
        value.backward()  # type: ignore[no-untyped-call]
        norm2 = squared_norm(p.grad for p in objective.parameters)
        return replace(reader.measurement(norm2, objective.samples), reason="asked for")
    finally:
        reader.disarm()
        for parameter, gradient in zip(objective.parameters, kept, strict=True):
            parameter.grad = gradient


def _norms2(uses: Sequence[ParamUse], groups: ParameterGroups, squares: dict[Tensor, Tensor]) -> list[list[Tensor]]:
    """‖P c_i‖² of each parameter group, in parts of shape (b,)."""
    parts: list[list[Tensor]] = [[] for _ in range(groups.count)]
    for together in joined(uses):
        owners = {groups.group_of[slot.parameter] for use in together for slot in use.slots().values()}
        if len(owners) == 1 and not squares:
            parts[owners.pop()] += norms2_of(together)
        else:
            for slot, norms2 in slot_norms2(together, squares).items():
                parts[groups.group_of[slot.parameter]].append(norms2)
    return parts


def _products(uses: Sequence[ParamUse], groups: ParameterGroups, of: dict[Tensor, Tensor | None]) -> list[list[Tensor]]:
    """⟨c_i, G⟩ of each parameter group, in parts of shape (b,)."""
    parts: list[list[Tensor]] = [[] for _ in range(groups.count)]
    within = [{p: g if groups.group_of[p] == k else None for p, g in of.items()} for k in range(groups.count)]
    for use in uses:
        for k in {groups.group_of[slot.parameter] for slot in use.slots().values()}:
            parts[k].append(use.products(within[k]))
    return parts


def _summed(parts: list[list[Tensor]], samples: int) -> Tensor:
    """The sum of each group's parts, shape (groups, b), float64 on the CPU."""
    zero = torch.zeros(samples, dtype=torch.float64)
    return torch.stack([per_example_sum(of_group).cpu().double() if of_group else zero for of_group in parts])


def _jackknifed(groups: ParameterGroups, n: Tensor, p: Tensor, gradient_norms2: Tensor, reason: str) -> Measurement:
    """The measurement of the whole and of each group."""
    whole = jackknife(n.sum(0), p.sum(0), gradient_norms2.sum().item(), reason)
    each = zip(n, p, gradient_norms2.tolist(), strict=True)
    return _in_metric(groups, whole, [jackknife(*of_group, reason) for of_group in each])


def _in_metric(groups: ParameterGroups, whole: Measurement, each: list[Measurement]) -> Measurement:
    apart = tuple(replace(found, metric=groups.metric) for found in each)
    return replace(whole, metric=groups.metric, groups=apart)


def _check_first(objective: Objective, squares: Tensor, norms2: Tensor) -> None:
    """Compare the first sample with its own backward pass: finds positions taken for samples, and coupled losses."""
    alone = (next(objective.alone(slice(1))).square() * squares).sum()
    if not torch.isclose(alone, norms2[0], rtol=TOLERANCE, atol=TOLERANCE * norms2.mean().item()):
        raise UnsupportedError(
            f"the squared gradient norm of the first sample is {alone.item():.4g} alone and {norms2[0].item():.4g} "
            "within its batch: a layer's first dimension does not count samples, or the loss is no mean over them"
        )


def _one_by_one(objective: Objective, groups: ParameterGroups, because: str) -> Measurement:
    """A backward pass for each sample, twice: for the mean gradient and for the inner products with it."""
    b = objective.samples
    before = objective.random_state()
    gradients = objective.gradients()
    whole, squares = flat(gradients, objective.parameters), groups.flat_squares(gradients)
    drew = objective.drew_since(before)
    objective.set_random_state(before)
    norms2, unweighted, mean = [], 0.0, torch.zeros_like(whole)
    for g in objective.alone():
        norms2.append(groups.sums(g.square() * squares))
        unweighted += g.square().sum().item() / b
        mean += g / b
    apart, size = (mean - whole).norm().item(), unweighted**0.5
    if not drew and (b * mean - whole).norm().item() <= TOLERANCE * size < apart:
        raise InputError(f"the loss is a sum over the {b} samples; it must be their mean: use reduction='mean'")
    if not drew and apart > TOLERANCE * size:
        raise UnsupportedError("the samples are coupled: the batch gradient is not the mean of those of its samples")
    objective.set_random_state(before)  # the same dropout masks again
    direction = mean * squares
    products = [groups.sums(g * direction) for g in objective.alone()]
    n, p = torch.stack(norms2, 1), torch.stack(products, 1)
    return _jackknifed(groups, n, p, groups.sums(mean * direction), f"one backward pass per example: {because}")


def _by_micro_batches(objective: Objective, groups: ParameterGroups, because: str) -> Measurement:
    """Mean gradients of a few micro-batches, twice: for the mean gradient and for the inner products with it."""
    b, count = objective.samples, min(GROUPS, objective.samples // 2)
    if count < 2:
        raise InputError(f"micro-batches of 2 or more need at least 4 samples, {b} were given ({because})")
    parts = torch.arange(b, device=objective.device).tensor_split(count)
    sizes = [len(rows) for rows in parts]

    def mean_gradients() -> Iterator[Tensor]:
        for rows in parts:
            yield flat(tuple(groups.scaled(objective.gradients(rows))), objective.parameters)

    before = objective.random_state()
    norms2, mean = [], torch.zeros(())
    for g, size in zip(mean_gradients(), sizes, strict=True):
        norms2.append(groups.sums(g.square()))
        mean = mean + g * (size / b)
    objective.set_random_state(before)  # the same dropout masks again
    n, p = torch.stack(norms2, 1), torch.stack([groups.sums(g * mean) for g in mean_gradients()], 1)
    total, reason = groups.sums(mean.square()), f"{count} micro-batches: {because}"
    whole = _compared(sizes, n.sum(0), p.sum(0), total.sum().item(), reason)
    each = zip(n, p, total.tolist(), strict=True)
    return _in_metric(groups, whole, [_compared(sizes, *of_group, reason) for of_group in each])


def _compared(sizes: list[int], norms2: Tensor, products: Tensor, gradient_norm2: float, reason: str) -> Measurement:
    """The measurement from the norms of micro-batches' gradients and their products with the mean."""
    norms = MicroBatchNorms()
    for size, norm2 in zip(sizes, norms2.tolist(), strict=True):
        norms.add(size, norm2)
    found = norms.measurement(gradient_norm2, sum(sizes), reason)
    return jackknife_micro_batches(found, sizes, norms2, products)


def _checked(model: nn.Module, x: Any, y: Any, method: str, curvature: bool | str) -> list[nn.Parameter]:
    """The trainable parameters; refuses what cannot be measured."""
    if method not in METHODS:
        raise InputError(f"method={method!r} was given; it is one of {', '.join(METHODS)}")
    if curvature not in CURVATURES:
        raise InputError(f"curvature={curvature!r} was given; it is one of {', '.join(map(repr, CURVATURES))}")
    if y is None:
        if rows_of(x, "the batch") < 2:
            raise InputError("one sample was given; the noise needs at least 2")
    elif not (isinstance(x, Tensor) and isinstance(y, Tensor)):
        raise InputError(f"x and y must be tensors, not {type(x).__name__} and {type(y).__name__}: use torch.as_tensor")
    elif x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
        raise InputError(
            f"x has shape {tuple(x.shape)} and y {tuple(y.shape)}; their first dimensions must be the samples"
        )
    elif len(x) < 2:
        raise InputError(f"{len(x)} sample was given; the noise needs at least 2")
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise InputError("the model has no trainable parameters; set requires_grad on those to be trained")
    if any(map(is_part, parameters)):
        raise UnsupportedError(
            "a model sharded over processes cannot be measured; measure it whole, before fully_shard"
        )
    return parameters
