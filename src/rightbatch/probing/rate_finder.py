"""`rightbatch.find_lr`: the learning-rate range test."""

import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..averages import ExponentialAverage
from ..fitting.batch_loss import Objective
from ..fitting.units import Loss
from ..loop.optimizer_settings import require_plain_steps
from ..ranges import require_number, require_whole
from .rate_curve import RateCurve
from .run import require_model, seed_device
from .steps import ProbeSteps, require_finite, source_and_loss
from .trace import leaving_no_trace

DIVERGED = 4.0  # stop at this multiple of the smallest smoothed loss


def find_lr(
    model: nn.Module,
    train: Any,
    loss: Loss | None = None,
    *,
    objective: Objective | None = None,
    collate: Any = None,
    optimizer: torch.optim.Optimizer | None = None,
    batch_size: int = 64,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 100,
    smoothing: float = 0.9,
    seed: int = 0,
) -> RateCurve:
    """Increase the learning rate geometrically, step by step, until the loss diverges, and suggest good values.

    The suggestions are valid for this optimizer, batch size and model state. The model, the optimizer, random states
    and the data set's attributes are restored afterwards.

        curve = rightbatch.find_lr(model, (x, y), optimizer=optimizer)
        print(curve)
        curve.valley, curve.steepest, curve.tenth_of_minimum

    Args:
        model: on its device; trained from its current parameters, then restored.
        train: as in `fit`; so are `loss`, `objective` and `collate`.
        loss: see `fit`.
        objective: see `fit`.
        collate: see `fit`.
        optimizer: an optimizer of the model's parameters, with its state (default: plain SGD). The ratios between the
            learning rates of its groups are preserved, and a group at 0 stays at 0.
        batch_size: samples per step, at most the whole data set.
        low: the first learning rate.
        high: the last learning rate, unless the loss diverges before.
        steps: number of steps from `low` to `high`.
        smoothing: decay of the exponential average of the losses.
        seed: seed of the sample order and of dropout.

    Returns:
        The curve with its suggestions, up to the step at which the smoothed loss exceeds 4 times its minimum.

    Raises:
        InputError: invalid data, model, loss or settings.
        UnsupportedError: the parameters have several dtypes or devices, or the optimizer's step needs a closure.
        TraceError: running the model changed something that must not change, such as its hooks.

    Reference: L. N. Smith, "Cyclical Learning Rates for Training Neural Networks" (WACV 2017; arXiv 1506.01186),
    section 3.3. Differs: the rate grows geometrically, and the loss is the training batch's, smoothed; the suggestions
    are in common use since.
    """
    require_model(model)
    require_whole("batch_size", batch_size, least=1)
    require_number("low", low, above=0)
    require_number("high", high, above=low)
    require_whole("steps", steps, least=10)
    require_number("smoothing", smoothing, least=0, most=0.999)
    if optimizer is not None:
        require_plain_steps(optimizer)
    with leaving_no_trace(model, train), torch.enable_grad():
        source, batch_loss = source_and_loss(model, train, loss, objective, collate)
        model.train()
        runner = ProbeSteps(model, source, batch_loss, seed, None)
        seed_device(runner.device, seed)
        used = torch.optim.SGD(runner.parameters, lr=low) if optimizer is None else optimizer
        factor = (high / low) ** (1 / (steps - 1))
        rates = [low * factor**step for step in range(steps)]
        with _borrowed(used):
            rows = list(_losses(runner, used, min(batch_size, len(source)), rates, smoothing))
    losses, smoothed = zip(*rows, strict=True)
    return RateCurve(tuple(rates[: len(rows)]), losses, smoothed, min(batch_size, len(source)), type(used).__name__)


def _losses(
    runner: ProbeSteps, optimizer: torch.optim.Optimizer, samples: int, rates: list[float], smoothing: float
) -> Iterator[tuple[float, float]]:
    """(loss, smoothed loss) before the step at each rate, until it diverges."""
    given = [float(group["lr"]) or float(group.get("initial_lr", 0.0)) for group in optimizer.param_groups]
    base = next((rate for rate in given if rate), 0.0)
    ratios = [rate / base if base else 1.0 for rate in given]  # a group at 0 is frozen by its rate
    an_epoch = max(1, runner.train_samples // samples)
    average, least = ExponentialAverage[float](smoothing), math.inf
    for step, rate in enumerate(rates):
        if step % an_epoch == 0:
            runner.begin_epoch(step // an_epoch)
        runner.clear()
        loss = runner.gradient(samples)
        if step == 0:
            require_finite(loss)
        if not math.isfinite(loss):
            return
        smoothed = average.update(loss)
        least = min(least, smoothed)
        yield loss, smoothed
        if smoothed > least + (DIVERGED - 1) * abs(least):
            return
        for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
            group["lr"] = rate * ratio
        optimizer.step()
    runner.clear()


@contextmanager
def _borrowed(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Within the context, the optimizer works on a copy of its state and settings."""
    state, groups = optimizer.state, [dict(group) for group in optimizer.param_groups]
    optimizer.state = defaultdict(dict, {p: _copied(saved) for p, saved in state.items()})
    try:
        yield
    finally:
        optimizer.state = state
        for group, saved in zip(optimizer.param_groups, groups, strict=True):
            group.clear()
            group.update(saved)


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()}
