"""The critical batch size by trial: short training branches of increasing batch size, from the current state."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn

from ..data import Source
from ..errors import DivergedError, InputError
from ..fitting.batch_loss import BatchLoss, Objective
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
STEPS_OF_LARGEST = 32  # default window
COMPARED = 0.5  # losses are compared over this last fraction of the window


@dataclass(frozen=True, slots=True)
class Branch:
    """One branch: batch size, learning rate of the first parameter group, final loss (infinite if it diverged)."""

    batch_size: int
    lr: float
    loss: float


@dataclass(frozen=True, slots=True)
class CriticalBatch:
    """The result of `critical_batch`.

    Args:
        batch_size: the largest batch size without loss of progress per sample.
        at_least: no branch lost progress, so the critical batch may be larger.
        samples: samples consumed in training before the branches, as passed by the caller.
        window_samples: samples each branch consumed.
        tolerance: relative amount by which a loss may exceed that of the first branch.
        branches: in the order run; the last is the first that lost progress, unless `at_least`.
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
    objective: Objective | None = None,
    collate: Any = None,
) -> CriticalBatch:
    """Find the largest batch size that makes as much progress per sample as `batch_size`, by short trainings.

    A branch is a copy of model and optimizer that trains with batches of k·B and learning rate η·f(k) on the same
    samples in the same order. Its loss is the mean training loss over the second half of the window, before each
    step. Branches run in order of k and end with the first whose loss exceeds (1 + tolerance) times that of k = 1.

    | symbol | argument | meaning |
    |---|---|---|
    | B | batch_size | the initial batch size, known to be small enough |
    | k | factors | its multiples |
    | η | optimizer | its learning rate at batch size B, of every parameter group |
    | f | scaling | k ("linear") or sqrt(k) ("square-root") |

    Losses are compared over short windows: later benefits are not seen, and a tolerance below the scatter of the loss
    gives random results. Everything is restored afterwards. Needs memory for two more models.

    Args:
        model: in the state to branch from.
        optimizer: that of these parameters, in the state to branch from.
        train: see `fit`.
        batch_size: B.
        loss: see `fit`.
        factors: k in increasing order, starting with 1; factors whose batch exceeds the data are skipped.
        window_samples: samples each branch consumes (default: 32 of the largest batches).
        tolerance: relative.
        scaling: how the learning rate scales (default: "linear" for SGD, "square-root" for other optimizers).
        samples: samples consumed before, to order the estimates of one run; see `warm_up`.
        seed: seed of the sample order and of dropout.
        objective: see `fit`.
        collate: see `fit`.

    Returns:
        The estimate.

    Raises:
        InputError: invalid data or settings, or the branch at `batch_size` diverges.

    Reference: W. Merrill, S. Arora, D. Groeneveld, H. Hajishirzi, "Critical Batch Size Revisited: A Simple Empirical
    Approach to Large-Batch Language Model Training" (arXiv 2505.23971, 2025). Differs: the numbers, relative tolerance,
    and plain mean over half of the window instead of a smoothed final loss.
    """
    require_whole("batch_size", batch_size, least=1)
    require_whole("samples", samples, least=0)
    require_number("tolerance", tolerance, least=0)
    _require_factors(factors)
    scaling = _scaling_of(scaling, optimizer)
    with leaving_no_trace(model, train), torch.enable_grad():
        source, batch_loss = source_and_loss(model, train, loss, objective, collate)
        sizes = [k * int(batch_size) for k in factors if k * int(batch_size) <= len(source)]
        if not sizes:
            raise InputError(f"batch_size is {batch_size}, but there are only {len(source)} samples.")
        window = STEPS_OF_LARGEST * sizes[-1] if window_samples is None else window_samples
        require_whole("window_samples", window, least=2 * sizes[-1])
        branches: list[Branch] = []
        for size in sizes:
            rate_factor = (size / sizes[0]) ** POWERS[scaling]
            branches.append(_run(model, optimizer, source, batch_loss, size, rate_factor, window, seed))
            if not math.isfinite(branches[0].loss):
                raise InputError(f"Training diverges at the initial batch size {batch_size}: lower the learning rate.")
            if not branches[-1].loss <= (1 + tolerance) * branches[0].loss:
                break
    lost = len(branches) > 1 and not branches[-1].loss <= (1 + tolerance) * branches[0].loss
    critical = branches[-2 if lost else -1].batch_size
    return CriticalBatch(critical, not lost, int(samples), int(window), float(tolerance), tuple(branches))


def _scaling_of(scaling: Scaling | None, optimizer: torch.optim.Optimizer) -> Scaling:
    scaling = scaling or ("linear" if isinstance(optimizer, torch.optim.SGD) else "square-root")
    require_choice("scaling", scaling, get_args(Scaling))
    return scaling


def _require_factors(factors: object) -> None:
    if not isinstance(factors, Sequence):
        raise InputError(f"factors is {factors!r}: give increasing whole numbers that start with 1, such as (1, 2, 4).")
    for k in factors:
        require_whole("A factor", k, least=1)
    if not factors or factors[0] != 1 or list(factors) != sorted(set(factors)):
        raise InputError(f"factors are {tuple(factors)}: they must increase and start with 1.")


def warm_up(first: int, estimates: Sequence[CriticalBatch]) -> Piecewise:
    """A schedule that starts at `first` samples and doubles as soon as an estimate allows it.

    Args:
        first: the initial batch size.
        estimates: results for one run in order of `samples`.

    Returns:
        A batch-size rule that never decreases; it doubles several times at once if an estimate allows it.

    Raises:
        InputError: `first` is below 1, or the estimates are not in increasing order.

    Reference: see `critical_batch`; the batch-size warm-up.
    """
    require_whole("first", first, least=1)
    places = [estimate.samples for estimate in estimates]
    if places != sorted(set(places)):
        raise InputError(f"The estimates were made after {places} samples: these numbers must increase.")
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
    loss: BatchLoss,
    batch_size: int,
    rate_factor: float,
    window: int,
    seed: int,
) -> Branch:
    model, optimizer = copy.deepcopy((model, optimizer))  # together: the copied optimizer then steps the copy
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * rate_factor
    rate = float(optimizer.param_groups[0]["lr"])
    model.train()
    total = weighed = 0.0
    with alone(), torch.random.fork_rng(devices=[device for device in devices_of(model) if device.type == "cuda"]):
        torch.manual_seed(seed)
        auto = AutoBatch(model, optimizer, source, batch_size, seed=seed, epochs=math.ceil(window / len(source)))
        try:
            for batch in auto:
                try:
                    found = loss(model, batch)
                    auto.backward(found.loss, found.weight)
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
