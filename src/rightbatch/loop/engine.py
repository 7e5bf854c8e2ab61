"""One batch after another: begun, handed out pass by pass, taken through its step, abandoned or restarted."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .accumulator import BatchAccumulator
from .distributed.sharding import out_of_memory
from .gather import PassTooLarge
from .loss import LossChecks, require_loss, units
from .memory.forward_limit import BatchSnapshot, exhausted, is_out_of_memory, let_go, release
from .phases import steps
from .step import Step

NOT_GIVEN_BACK = (
    "The micro-batch yielded last was given neither to auto.backward(loss) nor to auto.skip(); a batch that gives no "
    "loss is skipped by auto.skip(). (Rules that try steps out, or enlarge a batch, do not work with loaders that "
    "fetch the next batch beforehand.)"
)


@dataclass(slots=True)
class UnderWay:
    """A batch and its step."""

    batch: BatchAccumulator
    step: Generator[None, None, bool]


class Engine:
    """Takes batches through their steps.

    Where the caller asks for a micro-batch before it has given the last one back, as loaders do that prefetch, it is
    served from the same batch or from the next, which is then begun `ahead` of the step.

    Args:
        step: the phases.
        snapshot: of buffers and random numbers, for a batch that is restarted.
        device: the model's.
    """

    def __init__(self, step: Step, snapshot: BatchSnapshot, device: torch.device) -> None:
        self._step = step
        self._snapshot = snapshot
        self._device = device
        self.current: UnderWay | None = None
        self._ahead: UnderWay | None = None
        self._given_back = False  # since the step was last asked for
        self._restarted = False
        self._over = self._prefetches = False
        self._handed_out = 0
        self.losses = LossChecks(step.gather.loss_scale.scaler)
        self.iterating = False
        self.others_stepped = False  # since the last loss
        self._skipped = False

    @property
    def place(self) -> tuple[int, int]:
        """(epoch, position) of the first sample that no step has used."""
        stream = self._step.stream
        return self.current.batch.origin if self.current is not None else (stream.epoch, stream.position)

    @property
    def differentiates(self) -> bool:
        """Whether the loss awaited next is differentiated; not for most trial steps."""
        if self._step.forks.judging:
            return False
        return self._step.search is None or self._step.search.trial.gradient

    @property
    def searching(self) -> bool:
        """Whether the model is at a trial point."""
        return self._step.search is not None

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The one that the loop steps."""
        return self._step.update_.optimizer

    @property
    def parameters(self) -> Sequence[Tensor]:
        """Those whose gradients the loop gathers."""
        return self._step.gradients.parameters

    @property
    def gathering(self) -> bool:
        """Whether gradients of a batch have been gathered that no step has used yet."""
        return self.current is not None and bool(self.current.batch.total.losses)

    def enter(self) -> None:
        """A `for` begins.

        Raises:
            InputError: the last micro-batch of the one before was dropped, or the data set has another length now.
        """
        dropped, self._over = self._over and self.current is not None and bool(self.current.batch.awaiting), False
        self.abandon()
        self._step.gradients.forget()  # what the caller's own passes have left in the gradients is none of ours
        if dropped:
            raise InputError(NOT_GIVEN_BACK)
        self._step.require_same_length()
        self.iterating, self._prefetches, self._handed_out = True, False, 0

    def leave(self) -> None:
        """The `for` has ended, or was left; in the midst of a line search the model returns to its iterate."""
        self.iterating = False
        if self.searching:
            self.abandon()

    def next(self, end: int) -> Any:
        """The next micro-batch; None where the epoch `end` begins, or the run has stopped by itself."""
        while not self._step.run.stopped:
            batch = self._batch(end)
            if batch is None:
                return None
            self._step.run.start_watch()
            try:
                samples = self._step.batcher.fetch(batch)
            except (RuntimeError, MemoryError) as error:
                self.run_out(error)
                continue
            self._handed_out += 1
            if self.current is not None and batch is self.current.batch and len(batch.awaiting) == 1:
                self._step.gather.arm(batch)
            return samples
        return None

    def _batch(self, end: int) -> BatchAccumulator | None:
        """The batch whose next pass is to be handed out; None where there is none."""
        if self.current is None:
            if self._step.stream.epoch >= end:
                return None
            self.current = self._begin()
        batch = self.current.batch
        if batch.complete:
            if not self._skipped:
                raise InputError("auto.step() was not called: call it after every auto.backward(loss).")
            self.advance()
            return self._batch(end)
        if not batch.awaiting:
            return batch
        return self._prefetched(batch, end)

    def _prefetched(self, batch: BatchAccumulator, end: int) -> BatchAccumulator | None:
        """The same, the caller having one that it has not given back."""
        rules = self._step.decide_
        ahead = 0 if self._ahead is None else len(self._ahead.batch.awaiting)
        if rules.lr_rule.searches or rules.batch_size_rule.enlarges_current or len(batch.awaiting) + ahead > 1:
            raise InputError(NOT_GIVEN_BACK)
        if self._handed_out > 1 and not self._prefetches:  # who looks ahead does so from the beginning
            raise InputError(NOT_GIVEN_BACK)
        self._prefetches = True
        self._step.give_up_forks()
        if batch.sweeps:
            batch.sweeps = False
            self._step.timer.abandon_sweep()
        if batch.queue:
            return batch
        if self._step.stream.epoch >= end:
            self._over = True
            return None
        self._ahead = self._begin(ahead=True)
        return self._ahead.batch

    def _begin(self, ahead: bool = False) -> UnderWay:
        step = self._step
        limit = step.batcher.limit
        before = limit.now
        if not ahead:
            if step.gradients.refresh():
                step.refresh()
            step.update_.begin(step.run.steps)
            if not step.forks.begin(lambda: step.run.outlook(step.timer.present())):
                step.give_up_forks()
        forks, number, size = step.forks, step.run.steps + ahead, step.run.batch_size
        if forks.judging:
            batch = step.batcher.judge(forks.samples)
        else:
            batch = step.batcher.begin(number, size, ahead or forks.active, measured=forks.first_turn)
        batch.decided_step = step.run.decided_step
        if not ahead:
            self._snapshot.note()
        if limit.now > before:
            step.report.memory(before, limit.now, None, str(self._device))
        under_way = UnderWay(batch, steps(step, batch))
        next(under_way.step)
        return under_way

    def take(self, loss: Tensor, weight: object) -> None:
        """Take in the loss of the micro-batch awaited next.

        Raises:
            InputError: none is awaited, or the loss or its weight is unusable.
        """
        batch = self._awaiting("auto.backward(loss)")
        share, differentiates = batch.head, self.differentiates
        require_loss(loss, differentiates and not share.idle)
        if differentiates:
            first = not (batch.total.losses or self.others_stepped)
            self.others_stepped = False
            beside = first and bool(self._step.gradients.present)
            found = self.losses.check(loss, beside, self.parameters if len(batch.pieces) > 1 else ())
            if found and self._do_not_cut(batch, found):
                return
        weighed = units(weight, share.interval.samples)
        self._step.gather.take(batch, loss, weighed, differentiates)
        self._note(batch, loss, weighed)

    def _do_not_cut(self, batch: BatchAccumulator, found: str) -> bool:
        """The loss compares samples with each other; whether the batch is restarted, to be passed at once."""
        self._step.do_not_cut(f"the loss compares samples with each other ({found})")
        if len(batch.pieces) + len(batch.queue) == 1 and not (batch.measured or batch.sweeps):
            return False
        self.abandon()
        self._snapshot.put_back()
        self._restarted = True
        return True

    def skip(self) -> None:
        """Drop the micro-batch awaited next."""
        batch = self._awaiting("auto.skip()")
        self._step.gather.skip(batch)
        self._note(batch, None, 0.0)
        self._skipped = batch.complete

    def _awaiting(self, call: str) -> BatchAccumulator:
        if self.current is None or not self.current.batch.awaiting:
            raise InputError(f"{call} was called without a new micro-batch from the loop.")
        batch = self.current.batch
        outstanding = len(batch.awaiting) + (0 if self._ahead is None else len(self._ahead.batch.awaiting))
        if outstanding > 1 and batch.head_dropped:
            raise InputError(NOT_GIVEN_BACK)
        return batch

    def _note(self, batch: BatchAccumulator, loss: Tensor | None, weight: float) -> None:
        lap_s = self._step.run.lap()
        batch.spent.seconds += lap_s
        if batch.repeating:
            batch.spent.trial_s += lap_s
        batch.note(loss, weight, lap_s)
        self._given_back, self._skipped = True, False
        if batch.awaiting:
            self._step.gather.arm(batch)

    def advance(self) -> bool:
        """Go on with the step, all passes queued having been taken; whether the parameters were updated.

        Raises:
            InputError: a micro-batch was not given back.
            DivergedError: divergence again and again.
        """
        if self._restarted:
            self._restarted = False
            return False
        if self.current is None or not self._given_back:
            raise InputError("auto.step() must follow auto.backward(loss), which takes the place of loss.backward().")
        self._given_back = False
        if not self.current.batch.complete:
            return False
        self._step.run.start_watch()
        self._skipped = False
        try:
            next(self.current.step)
        except StopIteration as end:
            self._end()
            return bool(end.value)
        except PassTooLarge as large:
            self._restart(large)
        except ArithmeticError:
            self._end()
            raise
        return False

    def _end(self) -> None:
        """The step is over: the batch begun ahead, if there is one, takes its place."""
        self.current, self._ahead = self._ahead, None
        if self.current is not None and self.current.batch.awaiting:
            self._step.gather.arm(self.current.batch)

    def run_out(self, error: BaseException) -> None:
        """The micro-batch awaited ran out of memory: all processes restart the batch in passes half as large.

        Raises:
            BaseException: `error` itself, where it is another, or no micro-batch is awaited.
            OutOfMemoryError: no smaller pass is possible; raised in all. Or the model is sharded; raised in this one.
        """
        if self.current is None or not self.current.batch.awaiting or self._ahead is not None:
            raise error
        if not is_out_of_memory(error):
            raise error
        if self._step.gradients.sharded:
            raise out_of_memory(self._device) from error
        batch = self.current.batch
        samples = batch.run_out()
        let_go(error)
        release(self._device)
        try:
            self._step.gather.report_exhausted(batch, samples)
        except PassTooLarge as large:
            self._restart(large, error)

    def _restart(self, large: PassTooLarge, error: BaseException | None = None) -> None:
        """Memory ran out in some process, in all of which this is called: back to before the batch, passes halved."""
        ranks, limit = self._step.sync.ranks, self._step.batcher.limit
        rank = large.rank if ranks.several else None
        device = ranks.device_of(large.rank, self._device)
        self._step.run.lap()
        self.abandon()
        self._snapshot.put_back()
        if not limit.halve(large.samples):
            raise exhausted(device, rank, large.samples) from error
        self._step.report.memory(large.samples, limit.now, rank, device)

    def abandon(self, restore: bool = True) -> None:
        """Give back what an unfinished batch has drawn and leave the model as it was before it.

        Args:
            restore: False where the model has been given another state meanwhile, which a trial step must not undo.
        """
        if not restore:
            self._step.search = None
        current, self.current, self._ahead = self.current, None, None
        self._given_back = self._skipped = False
        if current is None:
            return
        current.step.close()
        self._step.batcher.give_back(current.batch)
        self._step.decide_.discard()
        self._step.end(current.batch, undo=True)
