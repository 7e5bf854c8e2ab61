"""Loss and accuracy of the iterate a run would ship."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..data import BatchStream, Interval, Source
from ..noise.isolation import random_state, set_random_state
from .losses import Loss
from .ranks import Ranks

CHUNK_SAMPLES = 1024
BATCH_NORM_SAMPLES = 4096
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within, every module is in evaluation mode and no gradient is recorded; modes are put back one by one."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def evaluate(
    model: nn.Module, loss: Loss, source: Source, device: torch.device, ranks: Ranks | None = None
) -> dict[str, float]:
    """Mean loss over all examples of `source`, and accuracy where targets are classes.

    Several processes take turns at chunks of 1,024 examples and add up what they found.

    Returns:
        {"loss": ..., "accuracy": ...}; accuracy only for integer targets of one dimension and outputs (b, classes).
    """
    total = correct = 0.0
    classifies = False
    n = len(source)
    ranks = ranks or Ranks()
    with evaluating(model):
        for start in range(ranks.rank * CHUNK_SAMPLES, n, ranks.size * CHUNK_SAMPLES):
            indices = torch.arange(start, min(start + CHUNK_SAMPLES, n))
            x, y = source.fetch(indices)
            x, y = x.to(device), y.to(device)
            output: Tensor = model(x)
            total += float(loss(output, y)) * len(indices)
            classifies = output.dim() == 2 and y.dim() == 1 and not y.is_floating_point()
            if classifies:
                correct += float((output.argmax(1) == y).sum())
    rows = ranks.gather([total, correct, float(classifies)])
    total, correct, classifying = (sum(column) for column in zip(*rows, strict=True))
    result = {"loss": total / n}
    if classifying:
        result["accuracy"] = correct / n
    return result


def refresh_batch_norm(model: nn.Module, source: Source, device: torch.device) -> None:
    """Recompute the running statistics of BatchNorm layers at the parameters the model now holds.

    They were gathered at the iterates of training; an averaged iterate has others. Uses 4,096 examples, always the same
    and drawn at random, for data sorted by class begin with a single one.
    """
    layers = [m for m in model.modules() if isinstance(m, _BATCH_NORMS) and m.track_running_stats and m.training]
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    state = random_state(device)
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a plain average over the batches
    stream = BatchStream(source, seed=0, device=device)
    with torch.no_grad():
        for start in range(0, min(len(source), BATCH_NORM_SAMPLES), CHUNK_SAMPLES):
            interval = Interval(0, start, min(start + CHUNK_SAMPLES, len(source)))
            if interval.examples > 1:
                model(stream.fetch(interval)[0])
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    set_random_state(state, device)
