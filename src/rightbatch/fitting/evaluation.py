"""Loss and accuracy of the iterate a run would ship."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..data import Source
from ..data.streams.source import SAMPLE
from ..loop.distributed.process_group import ProcessGroup
from ..loop.distributed.sharding import sharded_modules, waiting_for_all
from ..loop.memory.forward_limit import ForwardLimit, exhausted, in_passes, is_out_of_memory, let_go, release
from ..noise.isolation import modes_kept, random_state, set_random_state
from .precision import Precision
from .units import Loss, UnitLoss, unit_loss

CHUNK_SAMPLES = 1024
BATCH_NORM_SAMPLES = SAMPLE
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within, every module is in evaluation mode and no gradient is recorded; modes are put back one by one."""
    with modes_kept(model), torch.no_grad():
        model.eval()
        yield


def evaluate(
    model: nn.Module,
    loss: Loss | UnitLoss,
    source: Source,
    device: torch.device,
    ranks: ProcessGroup | None = None,
    limit: ForwardLimit | None = None,
    precision: Precision | None = None,
) -> dict[str, float]:
    """Mean loss over all units of `source`, and accuracy where targets are classes, without those that are ignored.

    Each of several processes takes a contiguous part, so that of data in blocks it reads its own only, and what they
    found is added up. 1,024 samples are passed at once, or as many as `limit` says, which is halved wherever memory
    runs out and may be kept for the next time. Of a sharded model, of whose passes all processes must make as many,
    those who have run out of samples pass one that counts nothing.

    Returns:
        {"loss": ..., "accuracy": ...}; accuracy only for integer targets of one dimension and outputs (b, classes).

    Raises:
        OutOfMemoryError: memory ran out over a single sample in some process; raised in all. Or in any pass of a
            sharded model; raised there.
    """
    total = correct = classified = weighed = 0.0
    unit = loss if isinstance(loss, UnitLoss) else unit_loss(loss, source)
    passes = (precision or Precision(None, device)).passes
    classifies = False
    n = len(source)
    ranks = ranks or ProcessGroup()
    limit = limit or ForwardLimit(CHUNK_SAMPLES)
    together = bool(sharded_modules(model))
    chunk = limit.now if together else CHUNK_SAMPLES

    @waiting_for_all(model, device)
    def take_in(start: int, stop: int) -> None:
        nonlocal total, correct, classified, weighed, classifies
        x, y = source.fetch(torch.arange(start, stop))
        x, y = x.to(device), y.to(device)
        with passes():
            output: Tensor = model(x)
            value, weight = unit(output, y)
        classifies = output.dim() == 2 and y.dim() == 1 and not y.is_floating_point()
        counts = torch.ones_like(y, dtype=torch.bool) if unit.ignored is None else y != unit.ignored
        right = float(((output.argmax(1) == y) & counts).sum()) if classifies else 0.0
        total += float(value) * float(weight) if float(weight) else 0.0
        weighed += float(weight)
        correct += right
        classified += float(counts.sum()) if classifies else 0.0

    fits = True
    with evaluating(model):
        first, last = n * ranks.rank // ranks.size, n * (ranks.rank + 1) // ranks.size
        for start in range(first, first - (-n // ranks.size), chunk):
            if start < last:
                fits = fits and in_passes(take_in, start, min(start + chunk, last), limit, device)
            elif together:
                model(source.fetch(torch.arange(1))[0].to(device))
    rows = ranks.gather([total, correct, float(classifies), float(fits), weighed, classified])
    for rank, row in enumerate(rows):
        if not row[3]:
            raise exhausted(ranks.device_of(rank, device), rank if ranks.several else None)
    total, correct, classifying, _, weighed, classified = (sum(column) for column in zip(*rows, strict=True))
    result = {"loss": total / weighed if weighed else math.nan}
    if classifying:
        result["accuracy"] = correct / classified if classified else math.nan
    return result


def refresh_batch_norm(
    model: nn.Module, source: Source, device: torch.device, limit: ForwardLimit | None = None
) -> None:
    """Recompute the running statistics of BatchNorm layers at the parameters the model now holds.

    They were gathered at the iterates of training; an averaged iterate has others. Uses 4,096 samples, always the same
    and drawn at random, for data sorted by class begin with a single one; of a stream the first. They are passed 1,024
    at a time, or as many as `limit` says, but at least two; if memory runs out, all of them again in passes half as
    large.

    Raises:
        OutOfMemoryError: memory ran out over two samples, or in a pass of a sharded model.
    """
    layers = [m for m in model.modules() if isinstance(m, _BATCH_NORMS) and m.track_running_stats and m.training]
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    state = random_state(device)
    source = source.sample()
    order = source.order()
    samples = min(len(source), BATCH_NORM_SAMPLES)
    limit = limit or ForwardLimit(CHUNK_SAMPLES)
    begin = 0
    try:
        while begin < samples:
            if begin == 0:
                set_random_state(state, device)
                for layer in layers:
                    layer.reset_running_stats()
                    layer.momentum = None  # a plain average over the batches
            stop = min(begin + max(2, limit.now), samples)
            try:
                if stop - begin > 1:
                    # By index, not from a stream, for which the blocks that training reads ahead would be given up.
                    indices = torch.from_numpy(order.indices(0, begin, stop))
                    with torch.no_grad(), waiting_for_all(model, device):
                        model(source.fetch_epoch(indices, 0, 0)[0].to(device))
                begin = stop
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if stop - begin <= 2 or not limit.halve(stop - begin):
                    why = "and the statistics of BatchNorm need two"
                    raise exhausted(str(device), None, stop - begin, why) from error
                let_go(error)
                release(device)
                begin = 0
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        set_random_state(state, device)
