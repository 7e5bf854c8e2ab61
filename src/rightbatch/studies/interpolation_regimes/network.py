"""The steps a network takes to fit its samples, at its best learning rate."""

import math
from typing import TYPE_CHECKING

from ..experiment import Result
from ..plain_steps import plain_steps
from ..retuning import retune
from ..subject import Subject

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ...fitting.units import Loss

LOOK = 1.05  # the loss over all samples is taken at steps this far apart
PASSES = 500  # over its samples, after which a run is given up


def fit_network(
    subject: Subject, n: int, size: int, seed: int, *, accuracy: float, rate: float, most_steps: int
) -> Result:
    """Train by plain SGD until the loss over its n samples is `accuracy` of what it was, the rate walked from `rate`.

    Returns:
        The best rate, the steps there, inf where no rate arrived, and whether both neighbours took longer.
    """
    import torch

    from ...fitting.losses import default_loss

    (x, y), loss = some_samples(subject, n, seed), default_loss(subject.sources()[0])

    def cost(at: float, limit: float) -> float:
        model, look = subject.network(seed), 1.0
        optimizer = torch.optim.SGD(model.parameters(), lr=at)
        most = min(limit, most_steps, PASSES * n / size)
        last, before = 0, _loss(model, loss, x, y)
        target = accuracy * before
        for step in plain_steps(model, loss, x, y, size, optimizer, seed):
            if step.number < min(look, most):
                continue
            now = _loss(model, loss, x, y)
            if now <= target:
                part = math.log(before / target) / math.log(before / max(now, 1e-12))
                return last + (step.number - last) * part
            if not math.isfinite(now) or step.number >= most:
                break
            last, before, look = step.number, now, max(step.number + 1, LOOK * step.number)
        return math.inf

    walked = retune(cost, rate)
    return {"best_rate": walked.rate, "steps": walked.cost, "enclosed": walked.enclosed}


def some_samples(subject: Subject, n: int, seed: int) -> "tuple[Tensor, Tensor]":
    """Training samples drawn by the seed."""
    import torch

    from ...data import Order

    train, _ = subject.sources()
    x, y = train.fetch(torch.from_numpy(Order(len(train), seed).indices(0, 0, n)))
    return x, y


def is_linear(model: "nn.Module") -> bool:
    """Whether one linear layer is all that there is."""
    from torch import nn

    leaves = [each for each in model.modules() if not list(each.children())]
    weighted = [each for each in leaves if list(each.parameters())]
    rest = (nn.Flatten, nn.Unflatten, nn.Identity)
    return (
        len(weighted) == 1
        and isinstance(weighted[0], nn.Linear)
        and all(isinstance(each, rest) for each in leaves if each not in weighted)
    )


def _loss(model: "nn.Module", loss: "Loss", x: "Tensor", y: "Tensor") -> float:
    import torch

    with torch.no_grad():
        return float(loss(model.eval()(x), y))
