"""One batch while it is being gathered: what it consumes, the passes it is cut into, and what they have said."""

import math
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import mul
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..data import Interval
from ..data.nest import leaves
from ..noise.isolation import random_state, set_random_state
from .cutting import cut
from .distributed.process_group import LEAST_SHARE, ProcessGroup
from .gradients import read


@dataclass(slots=True)
class Total:
    """A mean over units, gathered pass by pass; losses stay on their device until `read`."""

    losses: list[Tensor] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    def add(self, loss: Tensor, weight: float) -> None:
        """Take in the mean loss of a pass over so many units."""
        self.losses.append(loss)
        self.weights.append(weight)

    @property
    def weight(self) -> float:
        """Units so far."""
        return math.fsum(self.weights)

    def read(self, *others: Tensor | float) -> list[float]:
        """The sum of the losses over all units, then `others`; one transfer from the device."""
        found = read([*self.losses, *others])
        return [math.fsum(map(mul, self.weights, found)), *found[len(self.losses) :]]


@dataclass(slots=True)
class Spent:
    """Seconds spent on a batch, of which `trial_s` on trial steps; (samples, seconds) of its passes where compared."""

    seconds: float = 0.0
    trial_s: float = 0.0
    passes: list[tuple[int, float]] = field(default_factory=list)


class Share(NamedTuple):
    """This process's part of a micro-batch; `idle`: it has none and is given samples that count nothing."""

    interval: Interval
    idle: bool = False


@dataclass(slots=True)
class BatchAccumulator:
    """The batch being gathered.

    Pass j over w_j units (samples, unless the caller counts others) is differentiated with weight w_j/reference,
    whatever the batch will turn out to hold; once it is complete, gradients times reference/Σ w_j are those of the
    mean over the whole batch, for any split. Where several processes train, each takes its share of every micro-batch,
    and the sum of the gradients over the processes is that of any other split.

    Args:
        ranks: the processes that take part.
        origin: (epoch, position) of the first sample, to return to if the batch is abandoned.
        planned: the batch size planned, in samples.
        micro_batch: maximum number of samples of a pass in one process.
        measured: whether its gradient noise is measured.
        compared: whether its passes are cut to be timed against each other.
        sweeps: whether they are those of a timing sweep.
        repeatable: whether trial steps may want its passes again, with the same random numbers.
        decided_step: the step at which its size was decided.
        intervals: what it holds, of which `queue` has not been handed out and `pieces` has.
        awaiting: shares handed out whose loss is not known yet, with a reference to the samples.
        total: losses and weights of this process's passes at the present parameters.
        reference: units that one unit of weight stands for; set by the first pass.
        samples: of all intervals, in all processes.
        spent: seconds so far.
        repeating: whether its passes are handed out again, at a trial point.
        judges: whether it is not trained on: its loss judges a fork.
    """

    ranks: ProcessGroup
    origin: tuple[int, int]
    planned: int
    micro_batch: int
    measured: bool = False
    compared: bool = False
    sweeps: bool = False
    repeatable: bool = False
    decided_step: int = 0
    intervals: list[Interval] = field(default_factory=list)
    queue: deque[Interval] = field(default_factory=deque)
    pieces: list[Interval] = field(default_factory=list)
    random: list[list[Tensor]] = field(default_factory=list)
    awaiting: deque[tuple[Share, Any]] = field(default_factory=deque)
    total: Total = field(default_factory=Total)
    reference: float = 0.0
    repeating: bool = False
    judges: bool = False
    samples: int = 0
    spent: Spent = field(default_factory=Spent)

    def __post_init__(self) -> None:
        """Several processes must agree on the unit beforehand: the sample."""
        if self.ranks.several or self.sweeps:
            self.reference = float(self.planned)

    @property
    def complete(self) -> bool:
        """Whether nothing is queued or awaited."""
        return not (self.queue or self.awaiting)

    def enqueue(self, interval: Interval, sizes: Sequence[int]) -> None:
        """Take in an interval, to be handed out in micro-batches of these sizes, which add up to it."""
        self.queue.extend(cut(interval, sizes) if len(sizes) > 1 else [interval])
        self.intervals.append(interval)
        self.samples += interval.samples

    def hand_out(self, device: torch.device) -> Share:
        """This process's share of the next micro-batch."""
        piece = self.queue.popleft()
        begin, end = self.ranks.share(piece.samples, self.micro_batch)
        idle = begin == end
        end = min(LEAST_SHARE, self.micro_batch, piece.samples) if idle else end
        share = Share(Interval(piece.epoch, piece.start + begin, piece.start + end), idle)
        if self.repeating:
            set_random_state(self.random[len(self.pieces) - len(self.queue) - 1], device)
        else:
            self.pieces.append(piece)
            if self.repeatable:
                self.random.append(random_state(device))
        self.awaiting.append((share, None))
        return share

    def watch(self, samples: Any) -> None:
        """Remember, without keeping it, what was handed out last: the first leaf of the micro-batch, if a tensor."""
        first = samples[0] if type(samples) is tuple else next(leaves(samples), None)
        if isinstance(first, Tensor):
            self.awaiting[-1] = (self.awaiting[-1][0], weakref.ref(first))

    @property
    def head(self) -> Share:
        """The share whose loss is awaited next."""
        return self.awaiting[0][0]

    @property
    def head_dropped(self) -> bool:
        """Whether the caller no longer holds the samples whose loss is awaited next."""
        watched = self.awaiting[0][1]
        return watched is not None and watched() is None

    def factor(self, weight: float) -> float:
        """By what a pass of so many units multiplies its loss."""
        if not self.reference:  # a batch of one pass is differentiated as it is, whatever its units are
            self.reference = weight * self.planned / self.head.interval.samples
        return weight / self.reference

    def note(self, loss: Tensor | None, weight: float, seconds: float) -> None:
        """The micro-batch awaited next had this mean loss over so many units, or was skipped, and took so long."""
        share, _ = self.awaiting.popleft()
        if loss is not None and weight and not share.idle:
            self.total.add(loss.detach(), weight)
        if self.compared and not self.repeating:
            self.spent.passes.append((self.pieces[len(self.spent.passes)].samples, 0.0 if loss is None else seconds))

    def run_out(self) -> int:
        """Memory ran out over the micro-batch awaited: it was the last, as far as this process is concerned."""
        samples = self.head.interval.samples
        if self.compared and not self.repeating:  # the others report as many times
            self.spent.passes += [
                (piece.samples, 0.0) for piece in [*self.pieces, *self.queue][len(self.spent.passes) :]
            ]
        self.awaiting.clear()
        self.queue.clear()
        return samples

    def repeat(self) -> None:
        """Hand out all micro-batches again, for a trial step."""
        self.repeating = True
        self.total = Total()
        self.queue.extend(self.pieces)
