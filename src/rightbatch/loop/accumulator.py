"""One batch while it is being gathered: what it has consumed and what its micro-batches have said."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..data import Interval
from ..decision import Decision, Search
from ..errors import InputError
from ..noise.gradient_norm import is_part
from ..noise.isolation import random_state, set_random_state
from .distributed.process_group import LEAST_SHARE, ProcessGroup
from .line_search import LineSearch
from .noise_meter import NoiseMeter

HOLD = Decision()


@dataclass(slots=True)
class BatchAccumulator:
    """The batch being gathered.

    Micro-batch j of m_j samples is differentiated with weight m_j/reference, whatever the batch will turn out to
    hold; once it is complete, gradients times `scale` = reference/samples are those of the mean over the whole
    batch, for any split. Where several processes train, each takes its share of every micro-batch; the sum of the
    gradients over the processes is then that of any other split. One that has no share is given two samples all the
    same, which count nothing: all processes make the same calls.

    Args:
        ranks: the processes that take part.
        origin: (epoch, position) of the first sample, to go back to if the batch is abandoned.
        reference: samples the weights refer to; the batch size planned.
        most_forward: most samples of a micro-batch in one process.
        meter: measures the noise of this batch; None where it is not measured.
        compared: whether its micro-batches are cut to be timed against each other.
        climbs: whether they are the rungs of a timing ladder.
        repeatable: whether trial steps may want its micro-batches again, with the same random numbers.
        decided_step: with which its size was decided.
        queue: micro-batches not yet handed out.
        awaiting: this process's share of the one handed out whose loss is not yet known.
        idle: that is no share, but two samples which count nothing.
        pieces: those handed out, for trial steps to repeat.
        random: the states of the random generators before each of them.
        witness: a parameter that got a gradient; should it lose it before the step, gradients were cleared meanwhile.
        samples: of all intervals, in all processes.
        loss_sum: over this process's samples; `loss_total` over all, once they have heard of each other.
        summed: gradients already summed over the processes, of the first part of a batch that is being enlarged.
        times_s: (samples, seconds) of each micro-batch, where they are compared.
        seconds: spent on it, of which `trial_s` on trial steps.
        growth: the last decision that enlarged it.
        size_state: the batch rule's state after its last decision; it becomes the run's with the step.
        meter_state: the meter's before it took in this batch, where trial steps may still have it begun anew.
        size: what the batch rule decided, the batch being complete.
        search: the step rule at work on it.
        line: the model at trial points; None until the first.
        failed: why the batch leads to no step; empty if nothing is wrong.
        oversized: samples of the pass that ran out of memory, 0 where none did; first of this process, then, once they
            have heard of each other, the smallest, in the process `oversized_rank`.
    """

    ranks: ProcessGroup
    origin: tuple[int, int]
    reference: int
    most_forward: int
    meter: NoiseMeter | None = None
    compared: bool = False
    climbs: bool = False
    repeatable: bool = False
    intervals: list[Interval] = field(default_factory=list)
    decided_step: int = 0
    queue: deque[Interval] = field(default_factory=deque)
    awaiting: Interval | None = None
    idle: bool = False
    pieces: list[Interval] = field(default_factory=list)
    random: list[list[Tensor]] = field(default_factory=list)
    witness: Tensor | None = None
    times_s: list[tuple[int, float]] = field(default_factory=list)
    samples: int = 0
    loss_sum: float = 0.0
    loss_total: float = 0.0
    summed: list[Tensor | None] | None = None
    trial_loss_sum: float = 0.0
    gradient_norm2: float = math.nan
    seconds: float = 0.0
    trial_s: float = 0.0
    growth: Decision | None = None
    size_state: Any = None
    meter_state: dict[str, Any] | None = None
    size: Decision = HOLD
    search: Search | None = None
    line: LineSearch | None = None
    failed: str = ""
    oversized: int = 0
    oversized_rank: int = 0

    @property
    def scale(self) -> float:
        """What accumulated gradients must be multiplied by."""
        return self.reference / max(1, self.samples)

    @property
    def loss(self) -> float:
        """Mean loss at the present parameters; nan if the batch failed."""
        return math.nan if self.failed else self.loss_total / max(1, self.samples)

    @property
    def wants_gradient(self) -> bool:
        """Whether the loss awaited will be differentiated; not for most trial steps."""
        return self.line is None or self.line.trial.gradient

    def enqueue(self, interval: Interval, sizes: Sequence[int]) -> None:
        """Take in an interval, to be handed out in micro-batches of these sizes, which add up to it."""
        self.queue.extend(cut(interval, sizes))
        self.intervals.append(interval)
        self.samples += interval.samples

    def hand_out(self, device: torch.device) -> Interval:
        """This process's share of the next micro-batch."""
        piece = self.queue.popleft()
        begin, end = self.ranks.share(piece.samples, self.most_forward)
        self.idle = begin == end
        end = min(LEAST_SHARE, self.most_forward, piece.samples) if self.idle else end
        self.awaiting = Interval(piece.epoch, piece.start + begin, piece.start + end)
        if self.line is not None:
            set_random_state(self.random[len(self.pieces) - len(self.queue) - 1], device)
        else:
            self.pieces.append(piece)
            if self.repeatable:
                self.random.append(random_state(device))
            if self.meter is not None:
                (self.meter.pass_over if self.idle else self.meter.arm)(self.awaiting.samples)
        return self.awaiting

    def differentiate(self, loss: Tensor, parameters: Sequence[nn.Parameter]) -> None:
        """Add the gradient of the micro-batch awaited, and measure it.

        Raises:
            InputError: earlier gradients of the batch are gone.
        """
        assert self.awaiting is not None
        if self.idle:
            if is_part(parameters[0]):
                (loss * 0.0).backward()  # type: ignore[no-untyped-call]  # the others wait for this process
            return
        if self.line is None and self.witness is not None and self.witness.grad is None:
            raise InputError("Gradients were cleared in the midst of a batch: leave out zero_grad, step() does it.")
        weight = self.awaiting.samples / self.reference
        meter = self.meter if self.line is None else None
        if meter is not None:
            meter.verify(loss)
        (loss if weight == 1.0 else loss * weight).backward()  # type: ignore[no-untyped-call]
        if meter is not None:
            meter.take(self.awaiting.samples, weight)
        elif self.queue and self.witness is None:
            self.witness = next((p for p in parameters if p.grad is not None), None)

    def note(self, loss: float, seconds: float) -> None:
        """The micro-batch awaited had this loss and took so many seconds; none is awaited any more."""
        assert self.awaiting is not None
        samples, self.awaiting = 0 if self.idle else self.awaiting.samples, None
        if self.line is not None:
            self.trial_loss_sum += loss * samples if samples else 0.0
            return
        self.loss_sum += loss * samples if samples else 0.0
        if self.compared:
            self.times_s.append((self.pieces[-1].samples, seconds))

    def run_out(self) -> None:
        """Memory ran out over the micro-batch awaited: it was the last, as far as this process is concerned."""
        assert self.awaiting is not None
        self.oversized, self.oversized_rank = self.awaiting.samples, self.ranks.rank
        if self.compared and self.line is None:  # the others tell of as many times
            self.times_s += [(piece.samples, 0.0) for piece in [*self.pieces, *self.queue][len(self.times_s) :]]
        self.awaiting = None
        self.queue.clear()

    def repeat(self) -> None:
        """Hand out all micro-batches again, for a trial step."""
        self.trial_loss_sum = 0.0
        self.queue.extend(self.pieces)


def even_sizes(samples: int, count: int) -> list[int]:
    """The sizes of `count` pieces that differ by one at most."""
    marks = [samples * i // count for i in range(count + 1)]
    return [b - a for a, b in pairwise(marks)]


def cut(interval: Interval, sizes: Sequence[int]) -> list[Interval]:
    """Cut an interval into pieces of these sizes, which add up to it."""
    return [Interval(interval.epoch, a, b) for a, b in pairwise(accumulate(sizes, initial=interval.start))]


def require_loss(loss: object, differentiable: bool) -> None:
    """Refuse what is not the loss of a micro-batch.

    Raises:
        InputError: it is not one number, or does not depend on a parameter although it is to be differentiated.
    """
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        given = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise InputError(f"The loss must be one number, the mean over the micro-batch; got {given}.")
    if differentiable and not loss.requires_grad:
        raise InputError("The loss does not depend on a trainable parameter: was it computed under no_grad?")
