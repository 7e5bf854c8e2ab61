"""Gather: the passes of a batch, their losses and gradients, put together over passes and processes."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import InputError
from .accumulator import BatchAccumulator, Total
from .distributed.rank_sync import BatchRecord, RankSync, Seen
from .gradients import Gradients, read, require_same
from .loss_scale import LossScale
from .memory.forward_limit import wait
from .micro_batcher import MicroBatcher
from .noise_meter import NoiseMeter
from .timing.step_times import StepTimes

SECOND_BACKWARD = "second time"  # torch, of a graph whose memory is gone


class Totals(NamedTuple):
    """A batch as far as it is gathered, in all processes.

    Args:
        samples: of all its intervals.
        weight: units of its loss; 0 where every pass was skipped.
        loss: mean over the units; nan if it failed.
        scale: factor from the gradients as gathered to that of the mean loss.
        norm2: squared norm of the latter.
        failed: why it leads to no step; empty if nothing is wrong.
        overflowed: the gradient is not finite because the scaled loss was too large for its precision.
    """

    samples: int
    weight: float
    loss: float
    scale: float
    norm2: float
    failed: str = ""
    overflowed: bool = False


class PassTooLarge(Exception):  # not an error yet: the batch is restarted in smaller passes
    """Memory ran out in some process; raised in all of them.

    Args:
        samples: of the pass that did not fit.
        rank: of the process.
    """

    def __init__(self, samples: int, rank: int) -> None:
        super().__init__(samples, rank)
        self.samples, self.rank = samples, rank


class Gather:
    """Differentiates the passes of a batch and puts together what they give.

    Args:
        batcher: where passes come from.
        gradients: where their gradients are added up.
        meter: watches the passes of measured batches.
        sync: exchanges records with the other processes.
        loss_scale: what losses are multiplied by.
        device: the model's.
    """

    def __init__(
        self,
        batcher: MicroBatcher,
        gradients: Gradients,
        meter: NoiseMeter | None,
        sync: RankSync,
        loss_scale: LossScale,
        device: torch.device,
    ) -> None:
        self._batcher = batcher
        self._gradients = gradients
        self._meter = meter
        self._sync = sync
        self.loss_scale = loss_scale
        self._device = device
        self.last_times: StepTimes | None = None  # of the step before, not yet known to the other processes

    def arm(self, batch: BatchAccumulator) -> None:
        """Get ready for the forward pass of the micro-batch whose loss is awaited next."""
        if self._meter is not None and batch.measured and not batch.repeating and batch.awaiting:
            share = batch.head
            (self._meter.pass_over if share.idle else self._meter.arm)(share.interval.samples)

    def take(self, batch: BatchAccumulator, loss: Tensor, weight: float, differentiate: bool) -> None:
        """Take in the loss of the micro-batch awaited next, the mean over `weight` units.

        Raises:
            InputError: it was differentiated before.
        """
        share, last = batch.head, len(batch.awaiting) + len(batch.queue) == 1
        if not (weight or share.idle):
            self._unmeasure(batch)
        loss_scaled = self.loss_scale.scaled(loss)
        if not differentiate:
            return
        self._gradients.clear()
        if share.idle or not weight:
            if self._gradients.sharded:
                # The others wait for this process, which is left its part of their gradients.
                (loss_scaled * 0.0).backward()  # type: ignore[no-untyped-call]
        else:
            self._backward(batch, loss, loss_scaled, weight)
        if last and self._meter is not None and batch.measured and not batch.repeating:
            self._meter.gather()
        several = batch.measured or batch.ranks.several or len(batch.pieces) > 1
        scaled = self.loss_scale.scaler is not None  # unscale_ leaves no version either
        self._gradients.checks_norm = (several or scaled) and not batch.repeating
        self._gradients.collect(last)
        if batch.sweeps or batch.compared:
            wait(self._device)  # its seconds count

    def _backward(self, batch: BatchAccumulator, loss: Tensor, scaled: Tensor, weight: float) -> None:
        factor = batch.factor(weight)
        meter = self._meter if batch.measured and not batch.repeating else None
        if meter is not None:
            meter.verify(loss)
        try:
            (scaled if factor == 1.0 else scaled * factor).backward()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            if SECOND_BACKWARD not in str(error):
                raise
            raise InputError(
                "The loss was differentiated before auto.backward(loss): remove loss.backward(), which "
                "auto.backward(loss) calls."
            ) from error
        if meter is not None:
            meter.take(batch.head.interval.samples, factor * self.loss_scale.value)

    def skip(self, batch: BatchAccumulator) -> None:
        """Drop the micro-batch awaited next."""
        self._gradients.clear()
        self._unmeasure(batch)
        self._gradients.collect(last=len(batch.awaiting) + len(batch.queue) == 1)

    def _unmeasure(self, batch: BatchAccumulator) -> None:
        """A batch of which some passes are missing is not measured; what the estimator holds of it is gathered."""
        if self._meter is None or not batch.measured or batch.repeating:
            return
        self._gradients.clear()
        self._meter.gather()
        self._meter.disarm()
        batch.measured = False
        self._gradients.collect(last=False)

    def more(self, batch: BatchAccumulator, summed: bool = False) -> None:
        """Further passes of the same batch are queued."""
        self._gradients.reopen(summed and self._sync.ranks.several)

    def sweep_on(self, batch: BatchAccumulator) -> bool:
        """Queue the next size of a timing sweep; at its end sum its gradients and return False."""
        if self._batcher.sweep_on(batch):
            self.more(batch)
            return True
        if batch.sweeps:
            self._sync.sum(self._gradients)
        return False

    def combine(self, batch: BatchAccumulator) -> BatchRecord:
        """What all processes have seen of the batch, its gradients summed unless the timing sweep continues.

        Raises:
            InputError: the gradients were changed by someone else.
            PassTooLarge: memory ran out in some process.
        """
        self._gradients.require_unchanged()
        if self._sync.ranks.several or batch.sweeps:  # else `totals` compares the norms, which it reads anyway
            self._gradients.require_same_norm()
        self._gradients.unmark()
        record = self._sync.exchange(
            self._record(batch.total, batch), self._gradients, not batch.sweeps, self.last_times
        )
        batch.spent.seconds = record.seconds
        if record.oversized:
            raise PassTooLarge(record.oversized, record.rank)
        return record

    def totals(self, batch: BatchAccumulator, record: BatchRecord) -> Totals:
        """The batch in numbers, its passes and processes being put together: the one read from the device.

        Raises:
            InputError: the gradients were changed by someone else.
        """
        single = not self._sync.ranks.several
        norms2 = self._gradients.norms2() if single or not record.failed else [math.nan]
        if single:
            marked = self._gradients.marked_norms2
            loss, *found = batch.total.read(*marked, *norms2)
            norms2 = found[len(marked) :]
            require_same(found[: len(marked)], norms2)
            failed = f"the loss became {loss}" if batch.total.losses and not math.isfinite(loss) else ""
        else:
            loss, failed, norms2 = record.loss, record.failed, read(norms2)
        if not record.weight:
            return Totals(batch.samples, 0.0, math.nan, 0.0, math.nan)
        scale = self._scale(batch, record.weight)
        own = sum(norms2) * scale * scale  # in float64, as Python adds
        norm2 = own if single else self._sync.seen(Seen(own, None, None)).gradient_norm2
        return Totals(batch.samples, record.weight, math.nan if failed else loss / record.weight, scale, norm2, failed)

    def scale(self, batch: BatchAccumulator) -> float:
        """Factor from the gradient as gathered in this process to that of the mean loss; nan before there is one."""
        return self._scale(batch, batch.total.weight) if batch.total.weight else math.nan

    def _scale(self, batch: BatchAccumulator, weight: float) -> float:
        """Factor from gradients as gathered over so many units to that of the mean loss."""
        return batch.reference / weight / self.loss_scale.value

    def combine_trial(self, batch: BatchAccumulator, differentiated: bool) -> tuple[float, float]:
        """The mean loss at a trial point, nan where it is not finite, and the factor to its mean gradient.

        Raises:
            PassTooLarge: memory ran out in some process.
        """
        self._gradients.unmark()
        record = self._sync.exchange_trial(self._record(batch.total, batch), self._gradients, differentiated)
        if record.oversized:
            raise PassTooLarge(record.oversized, record.rank)
        loss = batch.total.read()[0] if not self._sync.ranks.several else record.loss
        mean = loss / record.weight if record.weight and not record.failed else math.nan
        scale = self._scale(batch, record.weight) if record.weight else 0.0
        return (mean if math.isfinite(mean) else math.nan), scale

    def _record(self, total: Total, batch: BatchAccumulator) -> BatchRecord:
        """Of one process nothing need be read from the device yet."""
        if not self._sync.ranks.several:
            return BatchRecord(0.0, total.weight, seconds=batch.spent.seconds)
        (loss,) = total.read()
        failed = f"the loss became {loss}" if total.losses and not math.isfinite(loss) else ""
        return BatchRecord(loss, total.weight, failed, seconds=batch.spent.seconds)

    def report_exhausted(self, batch: BatchAccumulator, samples: int) -> None:
        """Tell the other processes that memory ran out in this one.

        Raises:
            PassTooLarge: always.
        """
        record = BatchRecord(math.nan, 0.0, "", samples, self._sync.ranks.rank)
        if batch.repeating or batch.judges:
            record = self._sync.exchange_trial(record, self._gradients, False)
        else:
            record = self._sync.exchange(record, self._gradients, not batch.sweeps, self.last_times)
        raise PassTooLarge(record.oversized, record.rank)
