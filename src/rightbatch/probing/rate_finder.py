"""`rightbatch.find_lr`: the learning-rate range test, leaving no trace."""

import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..averages import ExponentialAverage
from ..fitting.units import Loss
from ..ranges import require_number, require_whole
from .rate_curve import RateCurve
from .run import require_model, seed_device
from .steps import Steps, require_finite, source_and_loss
from .trace import leaving_no_trace

DIVERGED = 4.0  # times the least smoothed loss


def find_lr(
    model: nn.Module,
    train: Any,
    loss: Loss | None = None,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    batch_size: int = 64,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 100,
    smoothing: float = 0.9,
    seed: int = 0,
) -> RateCurve:
    """Raise the learning rate geometrically, a step at a time, until the loss blows up, and read off good ones.

    The rate suggested belongs to this optimizer, this batch size and these parameters. The model, its random numbers,
    the data set's attributes and the optimizer are as before afterwards.

        curve = rightbatch.find_lr(model, (x, y), optimizer=optimizer)
        print(curve)
        curve.valley, curve.steepest, curve.tenth_of_minimum

    Args:
        model: on its device; trained from its present parameters, and put back.
        train: a pair of tensors or arrays, a map-style Dataset, a path or a Source.
        loss: `loss(output, target)`, the mean over the samples; by default as for `probe`.
        optimizer: over the model's parameters, its state included; None is plain SGD. The rates of its groups keep
            their ratios to the first.
        batch_size: samples of every step, at most all there are.
        low: the first rate.
        high: the last, if the loss has not blown up before.
        steps: from the one to the other.
        smoothing: weight of the past in the average of the losses.
        seed: of the order of the samples and of dropout.

    Returns:
        The curve with its suggestions, up to the step at which the smoothed loss exceeded 4 times its least.

    Raises:
        InputError: unusable data, model, loss or settings.
        UnsupportedError: parameters of several types or on several devices.
        TraceError: something changed that running a model does not change, such as its hooks.

    Reference: L. N. Smith, "Cyclical Learning Rates for Training Neural Networks" (WACV 2017; arXiv 1506.01186),
    section 3.3. Differs: the rate grows geometrically, and the loss is the training batch's, smoothed; the suggestions
    are those in common use since.
    """
    require_model(model)
    require_whole("batch_size", batch_size, least=1)
    require_number("low", low, above=0)
    require_number("high", high, above=low)
    require_whole("steps", steps, least=10)
    require_number("smoothing", smoothing, least=0, most=0.999)
    with leaving_no_trace(model, train), torch.enable_grad():
        source, loss = source_and_loss(model, train, loss)
        model.train()
        runner = Steps(model, source, loss, seed, None)
        seed_device(runner.device, seed)
        used = torch.optim.SGD(runner.parameters, lr=low) if optimizer is None else optimizer
        factor = (high / low) ** (1 / (steps - 1))
        rates = [low * factor**step for step in range(steps)]
        with _borrowed(used):
            rows = list(_losses(runner, used, min(batch_size, len(source)), rates, smoothing))
    losses, smoothed = zip(*rows, strict=True)
    return RateCurve(tuple(rates[: len(rows)]), losses, smoothed, min(batch_size, len(source)), type(used).__name__)


def _losses(
    runner: Steps, optimizer: torch.optim.Optimizer, samples: int, rates: list[float], smoothing: float
) -> Iterator[tuple[float, float]]:
    """(loss, smoothed loss) before the step at each rate, until it blows up."""
    base = optimizer.param_groups[0]["lr"]
    ratios = [float(group["lr"] / base) if base > 0 else 1.0 for group in optimizer.param_groups]
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
    """Within, the optimizer works on a copy of its state and settings."""
    state, groups = optimizer.state, [dict(group) for group in optimizer.param_groups]
    optimizer.state = defaultdict(dict, {p: _copied(kept) for p, kept in state.items()})
    try:
        yield
    finally:
        optimizer.state = state
        for group, kept in zip(optimizer.param_groups, groups, strict=True):
            group.clear()
            group.update(kept)


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()}
