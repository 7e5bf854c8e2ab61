"""Where batches come from: the stream, cut into the micro-batches that memory, timing and measurement ask for."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..data import BatchStream, Interval
from .accumulator import BatchAccumulator, even_sizes
from .distributed.process_group import ProcessGroup
from .memory.forward_limit import ForwardLimit
from .noise_meter import NoiseMeter
from .supply import Supply
from .timing.step_timer import StepTimer

LADDER_REFERENCE = 64
LADDER_SHARE = 4  # of an epoch: the ladder may have a quarter, half of it for its largest size


class MicroBatcher:
    """Begins batches, adds to them and fetches their samples.

    Args:
        ranks: the processes among which each micro-batch is divided.
        stream: the samples in their order.
        epochs: where they end; None for never.
        exact: cut batches exactly, see `Supply`.
        limit: most samples in one forward pass of one process.
        clock: times steps.
        meter: measures noise, where it is wanted.
        device: the model's.
        timed: whether rules need the seconds of steps, so that the hardware is to be timed over batch sizes.
        repeatable: whether trial steps may want a batch again.
    """

    def __init__(
        self,
        ranks: ProcessGroup,
        stream: BatchStream,
        epochs: int | None,
        exact: bool,
        limit: ForwardLimit,
        clock: StepTimer,
        meter: NoiseMeter | None,
        device: torch.device,
        timed: bool,
        repeatable: bool,
    ) -> None:
        self._ranks = ranks
        self._stream = stream
        self._supply = Supply(stream, epochs, exact)
        self.limit = limit
        self._clock = clock
        self._meter = meter
        self._device = device
        self._timed = timed
        self._repeatable = repeatable

    def begin(self, step: int, wanted: int) -> BatchAccumulator:
        """The batch of this step, of about `wanted` samples: timed, compared, measured or none of these."""
        self.limit.begin(-(-wanted // self._ranks.size))
        origin = (self._stream.epoch, self._stream.position)
        gathering = self._ladder(step, origin)
        if gathering is not None:
            return gathering
        intervals = self._supply.draw(wanted)
        samples = sum(i.samples for i in intervals)
        meter = self._meter if self._meter is not None and self._meter.interval.due(step) else None
        # A measurement fixed to this step is made at it; one that its budget allows can be made at the next.
        if len(intervals) == 1 and samples <= self._most_forward and not (meter and meter.interval.every):
            sizes = self._clock.cut(step, samples)
            if sizes is not None:
                gathering = self._gathering(origin, samples, compared=True)
                gathering.enqueue(intervals[0], sizes)
                return gathering
        if meter is not None and not self._ranks.first:
            meter.reseed(f"{self._ranks.rank} {step}")
        gathering = self._gathering(origin, samples, meter)
        self._enqueue(gathering, intervals)
        return gathering

    def climb(self, gathering: BatchAccumulator) -> bool:
        """Put the next rung of the timing ladder in the queue; False if there is none."""
        size = self._clock.climb(gathering.seconds) if gathering.climbs else None
        if size is None:
            return False
        gathering.seconds = 0.0
        self._enqueue(gathering, [self._stream.take(size)])
        return True

    def enlarge(self, gathering: BatchAccumulator, wanted: int) -> bool:
        """Draw what the batch lacks of `wanted` samples; False if there are none for it."""
        intervals = self._supply.draw(wanted, gathering.samples)
        self._enqueue(gathering, intervals)
        return bool(intervals)

    def next(self, gathering: BatchAccumulator) -> tuple[Tensor, Tensor]:
        """The samples of the batch's next micro-batch."""
        return self._stream.fetch(gathering.hand_out(self._device))

    def give_back(self, gathering: BatchAccumulator) -> None:
        """Go back to where the batch began."""
        self._stream.seek(*gathering.origin)

    @property
    def _most_forward(self) -> int:
        return self.limit.now * self._ranks.size

    def _gathering(
        self,
        origin: tuple[int, int],
        reference: int,
        meter: NoiseMeter | None = None,
        compared: bool = False,
        climbs: bool = False,
    ) -> BatchAccumulator:
        most = self.limit.share
        return BatchAccumulator(self._ranks, origin, reference, most, meter, compared, climbs, self._repeatable)

    def _ladder(self, step: int, origin: tuple[int, int]) -> BatchAccumulator | None:
        most = self._stream.order.n // LADDER_SHARE
        if not self._timed or not self._clock.wants_ladder(step) or self._stream.remaining < most:
            return None
        self._clock.start_ladder(most, min(self._most_forward, most // 2))
        gathering = self._gathering(origin, LADDER_REFERENCE, climbs=True)
        return gathering if self.climb(gathering) else None

    def _enqueue(self, gathering: BatchAccumulator, intervals: Sequence[Interval]) -> None:
        groups = 1
        if gathering.meter is not None and not gathering.pieces and intervals:
            groups = -(-gathering.meter.groups // (len(intervals) * self._ranks.size))
        for interval in intervals:
            # At least two samples in each of the groups that are compared: BatchNorm cannot take one alone.
            least = min(groups, interval.samples // (2 * self._ranks.size))
            count = max(1, least, self.limit.passes(interval.samples, self._ranks.size))
            gathering.enqueue(interval, even_sizes(interval.samples, count))
