"""The critical batch size by trial: short branches of training at growing batches, from the present state."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn

from ..data import Source
from ..errors import DivergedError, InputError
from ..fitting.units import Loss
from ..loop import AutoBatch
from ..loop.distributed.process_group import alone
from ..noise.isolation import devices_of
from ..ranges import require_choice, require_number, require_whole
from ..rules.batch_size import Piecewise
from .steps import source_and_loss
from .trace import leaving_no_trace

Scaling = Literal["linear", "square-root"]
POWERS = {"linear": 1.0, "square-root": 0.5}
STEPS_OF_LARGEST = 32  # by default, in the window
COMPARED = 0.5  # share of the window, its end, over which losses are compared


@dataclass(frozen=True, slots=True)
class Branch:
    """One branch: batch size, learning rate of the first parameter group, loss at its end, infinite if it diverged."""

    batch_size: int
    lr: float
    loss: float


@dataclass(frozen=True, slots=True)
class CriticalBatch:
    """What branching found.

    Args:
        batch_size: the largest batch that lost nothing.
        at_least: no branch lost anything: the critical batch may be larger.
        samples: samples consumed in training before the branches began, as told by the caller.
        window_samples: samples each branch consumed.
        tolerance: by which share a loss may lie above that of the first branch.
        branches: in the order run; the last is the first that lost, unless `at_least`.
    """

    batch_size: int
    at_least: bool
    samples: int
    window_samples: int
    tolerance: float
    branches: tuple[Branch, ...]

    def __str__(self) -> str:
        least = "at least " if self.at_least else ""
        tried = ", ".join(f"{branch.batch_size:,}: {branch.loss:.4g}" for branch in self.branches)
        return (
            f"critical batch {least}{self.batch_size:,} samples after {self.samples:,} (losses at batches of {tried})"
        )


def critical_batch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    train: Any,
    batch_size: int,
    loss: Loss | None = None,
    *,
    factors: Sequence[int] = (1, 2, 4, 8, 16),
    window_samples: int | None = None,
    tolerance: float = 0.01,
    scaling: Scaling | None = None,
    samples: int = 0,
    seed: int = 0,
) -> CriticalBatch:
    """Find the largest batch that trains as well per example as `batch_size` does, by training with each for a while.

    A branch is a copy of model and optimizer that trains with batches of k·B and learning rate η·f(k) on the same
    samples in the same order. Its loss is the mean training loss over the second half of the window, before each
    step. Branches run in the order of k and end with the first whose loss exceeds (1 + tolerance) times that of k = 1.

    | symbol | argument | meaning |
    |---|---|---|
    | B | batch_size | the batch to start from, known to be small enough |
    | k | factors | by which it is multiplied |
    | η | optimizer | its learning rate, for batches of B, that of every parameter group |
    | f | scaling | k ("linear") or sqrt(k) ("square-root") |

    Nothing is assumed of the noise, but losses are compared over short windows: what pays only later is not seen, and
    a tolerance below the scatter of the loss finds chance. Leaves no trace: model, optimizer, random numbers and the
    data set's attributes are as before. Takes the memory of two more models.

    Args:
        model: in the state to branch from.
        optimizer: over its parameters, in the state to branch from.
        train: a pair of tensors or arrays, a map-style Dataset, a path or a Source.
        batch_size: B.
        loss: `loss(output, target)`, the mean over the samples; by default as in `fit`.
        factors: the k, ascending from 1; those whose batch exceeds the data are left out.
        window_samples: samples each branch consumes; None takes 32 of the largest batches.
        tolerance: relative.
        scaling: None is "linear" for SGD and "square-root" for the others.
        samples: samples consumed before, to tell the estimates of one run apart; see `warm_up`.
        seed: of the order of the samples and of dropout.

    Returns:
        The estimate.

    Raises:
        InputError: unusable data or settings, or the branch at `batch_size` itself diverges.

    Reference: W. Merrill, S. Arora, D. Groeneveld, H. Hajishirzi, "Critical Batch Size Revisited: A Simple Empirical
    Approach to Large-Batch Language Model Training" (arXiv 2505.23971, 2025). Ours are the numbers, the relative
    tolerance, and the plain mean over half of the window in place of a smoothed loss at its end.
    """
    require_whole("batch_size", batch_size, least=1)
    if not isinstance(factors, Sequence):
        raise InputError(f"factors is {factors!r}: give several numbers, ascending from 1, such as (1, 2, 4).")
    for k in factors:
        require_whole("A factor", k, least=1)
    if not factors or factors[0] != 1 or list(factors) != sorted(set(factors)):
        raise InputError(f"factors are {tuple(factors)}: let them ascend from 1.")
    require_number("tolerance", tolerance, least=0)
    require_whole("samples", samples, least=0)
    scaling = scaling or ("linear" if isinstance(optimizer, torch.optim.SGD) else "square-root")
    require_choice("scaling", scaling, get_args(Scaling))
    with leaving_no_trace(model, train), torch.enable_grad():
        source, loss = source_and_loss(model, train, loss)
        sizes = [k * int(batch_size) for k in factors if k * int(batch_size) <= len(source)]
        if not sizes:
            raise InputError(f"A batch of {batch_size} was asked for, but there are only {len(source)} samples.")
        window = STEPS_OF_LARGEST * sizes[-1] if window_samples is None else window_samples
        require_whole("window_samples", window, least=2 * sizes[-1])
        branches: list[Branch] = []
        for size in sizes:
            rate_factor = (size / sizes[0]) ** POWERS[scaling]
            branches.append(_run(model, optimizer, source, loss, size, rate_factor, window, seed))
            if not math.isfinite(branches[0].loss):
                raise InputError(
                    f"Training diverges at the batch of {batch_size} itself: lower the learning rate first."
                )
            if not branches[-1].loss <= (1 + tolerance) * branches[0].loss:
                break
    lost = len(branches) > 1 and not branches[-1].loss <= (1 + tolerance) * branches[0].loss
    critical = branches[-2 if lost else -1].batch_size
    return CriticalBatch(critical, not lost, int(samples), int(window), float(tolerance), tuple(branches))


def warm_up(first: int, estimates: Sequence[CriticalBatch]) -> Piecewise:
    """A schedule that begins with `first` samples and doubles as soon as an estimate allows the doubled batch.

    Args:
        first: the first batch.
        estimates: of one run at several places, ascending in `samples`.

    Returns:
        A batch rule; it never falls, and doubles more than once where an estimate allows it.

    Raises:
        InputError: first below 1, or estimates that do not ascend.

    Reference: as for `critical_batch`, the warm-up of the batch size there.
    """
    require_whole("first", first, least=1)
    places = [estimate.samples for estimate in estimates]
    if places != sorted(set(places)):
        raise InputError(f"The estimates were made after {places} samples: give them in that order, each place once.")
    sizes, size = {0: int(first)}, int(first)
    for estimate in estimates:
        while 2 * size <= estimate.batch_size:
            size *= 2
        if size != sizes[max(sizes)]:
            sizes[estimate.samples] = size
    return Piecewise(tuple(sizes.items()))


def _run(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    source: Source,
    loss: Loss,
    batch_size: int,
    rate_factor: float,
    window: int,
    seed: int,
) -> Branch:
    model, optimizer = copy.deepcopy((model, optimizer))  # together, so that the copy steps the copy's parameters
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * rate_factor
    rate = float(optimizer.param_groups[0]["lr"])
    model.train()
    total = weighed = 0.0
    with alone(), torch.random.fork_rng(devices=[device for device in devices_of(model) if device.type == "cuda"]):
        torch.manual_seed(seed)
        auto = AutoBatch(model, optimizer, source, batch_size, seed=seed, epochs=math.ceil(window / len(source)))
        try:
            for x, y in auto:
                try:
                    auto.backward(loss(model(x), y))
                except (RuntimeError, MemoryError) as error:
                    auto.handle_oom(error)
                    continue
                if auto.step() and auto.samples > (1 - COMPARED) * window:
                    total += auto.last["train_loss"] * auto.last["batch_size"]
                    weighed += auto.last["batch_size"]
                if auto.samples >= window:
                    break
        except DivergedError:
            return Branch(batch_size, rate, math.inf)
    mean = total / weighed if weighed else math.inf
    return Branch(batch_size, rate, mean if math.isfinite(mean) else math.inf)
