"""Train by Big Batch in its three forms, by SGD or by Adadelta, and count the work."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from ...errors import DivergedError
from ..plain_steps import plain_steps
from .objective import FullObjective

if TYPE_CHECKING:
    from torch import nn

    from ...decision import LRRule

FORWARD = 1 / 3  # of a gradient: what a trial of the line search costs, which is a loss and nothing else
NOISE_GROUPS = 16  # a penalty hides from exact per-example norms: the noise is then that between so many micro-batches


class MethodStep(NamedTuple):
    """A step just made: work so far in samples, the size carried on, rate, and its gradient's norm where known."""

    work: float
    size: int
    rate: float
    norm: float | None


def steps_of(
    objective: FullObjective, model: "nn.Module", arm: str, size: int, seed: int, rate: float, decay: float
) -> Iterator[MethodStep]:
    """Train by a method without end, or until it diverges.

    Args:
        objective: what to minimise.
        model: trained in place.
        arm: "Armijo, θ = ...", "BB, θ = ...", "fixed step, θ = ...", "Adadelta", or anything that begins with "SGD".
        size: of the batches, of Big Batch the first.
        seed: of the order of the samples.
        rate: of SGD and of the fixed step.
        decay: k of the rate η/(1 + k·passes) of SGD.
    """
    if arm.startswith(("SGD", "Adadelta")):
        return _plain(objective, model, arm == "Adadelta", size, seed, rate, decay)
    form, _, theta = arm.partition(", θ = ")
    return _big_batch(objective, model, form, float(theta), size, seed, rate)


def gradient_norm(model: "nn.Module") -> float:
    """The norm of the gradient that the parameters hold."""
    return math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None))


def _plain(
    objective: FullObjective, model: "nn.Module", adadelta: bool, size: int, seed: int, rate: float, decay: float
) -> Iterator[MethodStep]:
    import torch

    parameters, loss = list(model.parameters()), objective.of_batches(model)
    optimizer = torch.optim.Adadelta(parameters) if adadelta else torch.optim.SGD(parameters, lr=rate)
    for step in plain_steps(model, loss, objective.x, objective.y, size, optimizer, seed):
        if not math.isfinite(step.loss):
            return
        yield MethodStep(step.samples, size, optimizer.param_groups[0]["lr"], None)
        if decay:
            optimizer.param_groups[0]["lr"] = rate / (1 + decay * step.samples / len(objective))


def _big_batch(
    objective: FullObjective, model: "nn.Module", form: str, theta: float, size: int, seed: int, rate: float
) -> Iterator[MethodStep]:
    import torch

    from ...loop.auto_batch import AutoBatch
    from ...loop.run_state import ENDLESS
    from ...noise import Noise
    from ...rules.batch_size import BigBatch
    from ...rules.lr import Armijo, BarzilaiBorwein, Constant

    rule: LRRule = Armijo() if form == "Armijo" else BarzilaiBorwein() if form == "BB" else Constant(rate)
    batch = BigBatch(theta=theta, initial=size, tolerance=0, patience=0)
    noise = Noise("micro-batch", groups=NOISE_GROUPS) if objective.penalty else None
    data = (objective.x, objective.y)
    auto = AutoBatch(model, None, data, batch, rule, seed=seed, epochs=ENDLESS, noise=noise)
    loss, work = objective.of_batches(model), 0.0
    try:
        for x, y in auto:
            work += len(x) * (1.0 if auto.needs_gradient else FORWARD)
            with torch.set_grad_enabled(auto.needs_gradient):
                value = loss(model(x), y)
            auto.backward(value)
            if auto.step():
                yield MethodStep(work, auto.batch_size, auto.lr, auto.last["gradient_norm"])
    except DivergedError:
        return
