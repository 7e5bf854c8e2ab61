"""Where batches come from: the stream, cut into the micro-batches that memory, timing and measurement ask for."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ..data import BatchStream, Interval
from .accumulator import BatchAccumulator
from .cutting import BatchCutter, even_sizes
from .distributed.process_group import ProcessGroup
from .memory.forward_limit import ForwardLimit
from .noise_meter import NoiseMeter
from .timing.step_timer import StepTimer

SWEEP_REFERENCE = 64
SWEEP_SHARE = 4  # of an epoch: the timing sweep may have a quarter, half of it for its largest size
SWEEP_SHARE_OF_RUN = 50
LEAST_SWEEP = 256


class MicroBatcher:
    """Begins batches, adds to them and fetches their samples.

    Args:
        ranks: the processes among which each micro-batch is divided.
        stream: the samples in their order.
        epochs: where they end; None for never.
        exact: cut batches exactly, see `BatchCutter`.
        limit: maximum number of samples in one forward pass of one process.
        timer: times steps.
        meter: measures noise, where it is wanted.
        device: the model's.
        timed: whether a rule needs the hardware timed over batch sizes.
        repeatable: whether trial steps may want a batch again.
    """

    def __init__(
        self,
        ranks: ProcessGroup,
        stream: BatchStream,
        epochs: int | None,
        exact: bool,
        limit: ForwardLimit,
        timer: StepTimer,
        meter: NoiseMeter | None,
        device: torch.device,
        timed: bool,
        repeatable: bool,
    ) -> None:
        self._ranks = ranks
        self._stream = stream
        self._epochs = epochs
        self._cutter = BatchCutter(stream, epochs, exact)
        self.limit = limit
        self._timer = timer
        self._meter = meter
        self._device = device
        self._timed = timed
        self._repeatable = repeatable
        self.uncut = False  # whether a batch is one pass, because its samples' losses depend on each other

    def judge(self, samples: int) -> BatchAccumulator:
        """A batch whose loss judges a fork."""
        origin = (self._stream.epoch, self._stream.position)
        intervals = self._cutter.draw(samples)
        batch = self._new(origin, sum([i.samples for i in intervals]))
        batch.judges = True
        self._enqueue(batch, intervals)
        return batch

    def begin(self, step: int, wanted: int, plain: bool = False, measured: bool = True) -> BatchAccumulator:
        """The batch of this step, of about `wanted` samples: timed, compared, measured or none of these.

        Args:
            step: number of steps taken so far.
            wanted: the batch size decided.
            plain: neither timed nor compared, as where another batch is still under way.
            measured: whether it may be measured.
        """
        self.limit.begin(-(-wanted // self._ranks.size))
        origin = (self._stream.epoch, self._stream.position)
        plain = plain or self.uncut
        batch = None if plain or not self._timed else self._sweep(step, origin)
        if batch is not None:
            return batch
        intervals = self._cutter.draw(wanted)
        samples = sum([i.samples for i in intervals])
        meter = self._meter if measured and self._meter is not None and self._meter.interval.due(step) else None
        # A measurement fixed to this step is made at it; one that its budget allows can be made at the next.
        whole = not plain and len(intervals) == 1 and samples <= self._most_forward
        whole = whole and not self._stream.source.limits_passes
        if whole and not (meter and meter.interval.every):
            sizes = self._timer.cut(step, samples)
            if sizes is not None:
                batch = self._new(origin, samples, compared=True)
                batch.enqueue(intervals[0], sizes)
                return batch
        if meter is not None and not self._ranks.first:
            meter.reseed(f"{self._ranks.rank} {step}")
        batch = self._new(origin, samples, measured=meter is not None)
        self._enqueue(batch, intervals)
        return batch

    def sweep_on(self, batch: BatchAccumulator) -> bool:
        """Queue the next size of the timing sweep; False if there is none."""
        size = self._timer.sweep_on(batch.spent.seconds) if batch.sweeps else None
        if size is None:
            return False
        batch.spent.seconds = 0.0
        self._enqueue(batch, [self._stream.take(size)])
        return True

    def enlarge(self, batch: BatchAccumulator, wanted: int) -> bool:
        """Draw what the batch lacks of `wanted` samples; False if there are none for it."""
        intervals = self._cutter.draw(wanted, batch.samples)
        self._enqueue(batch, intervals)
        return bool(intervals)

    def fetch(self, batch: BatchAccumulator) -> Any:
        """The samples of the batch's next micro-batch."""
        share = batch.hand_out(self._device)
        samples = self._stream.fetch(share.interval)
        batch.watch(samples)
        return samples

    def give_back(self, batch: BatchAccumulator) -> None:
        """Return to where the batch began."""
        self._stream.seek(*batch.origin)

    def lengths(self, wanted: int, end: int) -> Iterator[int]:
        """Passes of each batch from here to the epoch `end`, if batches of `wanted` samples are cut exactly."""
        n, position = self._stream.order.n, self._stream.position
        for epoch in range(self._stream.epoch, end):
            left = n - (position if epoch == self._stream.epoch else 0)
            while left:
                taken = left if left == wanted + 1 and wanted > 1 else min(wanted, left)
                yield max(1, self.limit.passes(taken, self._ranks.size))
                left -= taken

    @property
    def _most_forward(self) -> int:
        return self.limit.now * self._ranks.size

    def _new(
        self,
        origin: tuple[int, int],
        planned: int,
        measured: bool = False,
        compared: bool = False,
        sweeps: bool = False,
    ) -> BatchAccumulator:
        limit = self.limit.share
        return BatchAccumulator(self._ranks, origin, planned, limit, measured, compared, sweeps, self._repeatable)

    def _sweep(self, step: int, origin: tuple[int, int]) -> BatchAccumulator | None:
        n = self._stream.order.n
        most = n // SWEEP_SHARE
        if self._epochs is not None:
            most = min(most, max(LEAST_SWEEP, self._epochs * n // SWEEP_SHARE_OF_RUN))
        if not self._timer.wants_sweep(step) or self._stream.remaining < most:
            return None
        self._timer.start_sweep(most, min(self._most_forward, most // 2))
        batch = self._new(origin, SWEEP_REFERENCE, sweeps=True)
        return batch if self.sweep_on(batch) else None

    def _enqueue(self, batch: BatchAccumulator, intervals: Sequence[Interval]) -> None:
        groups = 1
        if batch.measured and self._meter is not None and not batch.pieces and intervals and not self.uncut:
            groups = -(-self._meter.groups // (len(intervals) * self._ranks.size))
        for interval in intervals:
            # At least two samples in each of the groups that are compared: BatchNorm cannot take one alone.
            least = min(groups, interval.samples // (2 * self._ranks.size))
            count = max(1, least, self.limit.passes(interval.samples, self._ranks.size))
            count = 1 if self.uncut else count
            sizes = even_sizes(interval.samples, count)
            if not self.uncut:
                sizes = self._stream.source.passes(self._stream.order, interval, sizes, self._ranks.size)
            batch.enqueue(interval, sizes)
