"""Loss, accuracy and metrics of the iterate a run would ship."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..data import Source
from ..data.nest import to_device
from ..data.streams.source import SAMPLE
from ..loop.distributed.process_group import ProcessGroup
from ..loop.distributed.sharding import sharded_modules, waiting_for_all
from ..loop.memory.forward_limit import ForwardLimit, exhausted, in_passes, is_out_of_memory, let_go, release
from ..noise.isolation import modes_kept, random_state, set_random_state
from .batch_loss import BatchLoss, BatchResult, PairLoss, call_model
from .metrics import Metrics
from .precision import Precision
from .units import Loss, unit_loss

CHUNK_SAMPLES = 1024
BATCH_NORM_SAMPLES = SAMPLE
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within, every module is in evaluation mode and no gradient is recorded; modes are put back one by one."""
    with modes_kept(model), torch.no_grad():
        model.eval()
        yield


@dataclass(slots=True)
class Tally:
    """What the forward passes of one process add up to."""

    loss: float = 0.0
    units: float = 0.0
    correct: float = 0.0
    classified: float = 0.0
    classifies: bool = False

    def add(self, found: BatchResult, samples: int, ignored: int | None) -> None:
        """Count one pass of so many samples: its mean loss, and where targets are classes, the correct ones."""
        output, target = found.outputs, found.targets
        self.classifies = (
            isinstance(output, Tensor)
            and isinstance(target, Tensor)
            and output.dim() == 2
            and target.dim() == 1
            and len(output) == len(target)
            and not target.is_floating_point()
        )
        if self.classifies:
            correct = output.argmax(1) == target
            counts = torch.ones_like(correct) if ignored is None else target != ignored
            right, classified = float((correct & counts).sum()), float(counts.sum())
        units = float(samples if found.weight is None else found.weight)
        self.loss += float(found.loss) * units if units else 0.0
        self.units += units
        if self.classifies:
            self.correct += right
            self.classified += classified

    def row(self) -> list[float]:
        """As numbers that processes exchange."""
        return [self.loss, self.correct, self.units, self.classified, float(self.classifies)]

    @classmethod
    def result(cls, rows: Sequence[Sequence[float]]) -> dict[str, float]:
        """The mean loss, and the accuracy where targets are classes, of the rows of all processes."""
        loss, correct, units, classified, classifies = (sum(column) for column in zip(*rows, strict=True))
        result = {"loss": loss / units if units else math.nan}
        if classifies:
            result["accuracy"] = correct / classified if classified else math.nan
        return result


def evaluate(
    model: nn.Module,
    loss: Loss | BatchLoss,
    source: Source,
    device: torch.device,
    ranks: ProcessGroup | None = None,
    limit: ForwardLimit | None = None,
    precision: Precision | None = None,
    metrics: Metrics | None = None,
) -> dict[str, float]:
    """Mean loss over all units of `source`, accuracy where targets are classes that are not ignored, and metrics.

    Each of several processes takes a contiguous part, so that of data in blocks it reads its own only, and what they
    found is added up. 1,024 samples are passed at once, or as many as `limit` says, which is halved wherever memory
    runs out and may be kept for the next time. Of a sharded model, of whose passes all processes must make as many,
    those who have run out of samples pass one that counts nothing.

    Returns:
        {"loss": ..., "accuracy": ...} and the metrics by name; accuracy only for integer targets of one dimension and
        outputs (b, classes).

    Raises:
        OutOfMemoryError: memory ran out over a single sample in some process; raised in all. Or in any pass of a
            sharded model; raised there.
        InputError: a metric is not one number.
    """
    tally = Tally()
    batch_loss = loss if isinstance(loss, BatchLoss) else PairLoss(unit_loss(loss, source))
    passes = (precision or Precision(None, device)).passes
    n = len(source)
    ranks = ranks or ProcessGroup()
    limit = limit or ForwardLimit(CHUNK_SAMPLES)
    metrics = metrics or Metrics()
    together = bool(sharded_modules(model))
    chunk = limit.now if together else CHUNK_SAMPLES

    @waiting_for_all(model, device)
    def take_in(start: int, stop: int) -> None:
        batch = to_device(source.fetch(torch.arange(start, stop)), device)
        with passes():
            found = batch_loss(model, batch)
        tally.add(found, stop - start, batch_loss.ignored)
        metrics.update(found.outputs, found.targets)  # last: a pass that runs out of memory is made again

    fits = True
    with evaluating(model):
        metrics.begin(device)
        first, last = n * ranks.rank // ranks.size, n * (ranks.rank + 1) // ranks.size
        for start in range(first, first - (-n // ranks.size), chunk):
            if start < last:
                fits = fits and in_passes(take_in, start, min(start + chunk, last), limit, device)
            elif together:
                batch_loss.forward(model, to_device(source.fetch(torch.arange(1)), device))
        rows = ranks.gather([*tally.row(), float(fits)])
        for rank, row in enumerate(rows):
            if not row[-1]:
                raise exhausted(ranks.device_of(rank, device), rank if ranks.several else None)
        return Tally.result([row[:-1] for row in rows]) | metrics.results(ranks)


def normalizes_batches(model: nn.Module) -> bool:
    """Whether the model has BatchNorm layers."""
    return any(isinstance(module, _BATCH_NORMS) for module in model.modules())


def refresh_batch_norm(
    model: nn.Module,
    source: Source,
    device: torch.device,
    limit: ForwardLimit | None = None,
    loss: BatchLoss | None = None,
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
                        batch = to_device(source.fetch_epoch(indices, 0, 0), device)
                        call_model(model, batch[0]) if loss is None else loss.forward(model, batch)
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
