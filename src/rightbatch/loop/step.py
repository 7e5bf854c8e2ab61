"""What the phases of a step do: the glue between the parts that each of them needs."""

import math
from collections.abc import Generator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..data import BatchStream
from ..decision import Decision, Outcome, StepContext, Trial
from ..errors import DivergedError, InputError, UnsupportedError
from ..measurements import Measurement
from ..noise.gradient_norm import squared_norm
from .accumulator import BatchAccumulator
from .decide import Decide
from .distributed.rank_sync import BatchRecord, RankSync
from .forks import Forks
from .gather import Gather, Totals
from .gradients import Gradients
from .measure import Measure
from .micro_batcher import MicroBatcher
from .report import Report
from .run_state import RunState
from .timing.step_timer import StepTimer
from .timing.step_times import StepTimes
from .trial import LineSearch
from .update import Update

NOT_FINITE = "the gradient is not finite"


class Step:
    """The phases of `phases.steps`.

    Args:
        model: trained.
        run: how far it has come.
        stream: where samples come from.
        batcher: cuts them into passes.
        gradients: of the batch under way.
        sync: the other processes.
        timer: models the seconds of a step.
        gather: the first phase.
        measure: the third.
        decide: the fourth.
        update: the sixth.
        report: the last.
        forks: of the run, where the lr rule compares rates by them.
    """

    def __init__(
        self,
        model: nn.Module,
        run: RunState,
        stream: BatchStream,
        batcher: MicroBatcher,
        gradients: Gradients,
        sync: RankSync,
        timer: StepTimer,
        gather: Gather,
        measure: Measure,
        decide: Decide,
        update: Update,
        report: Report,
        forks: Forks,
    ) -> None:
        self._model = model
        self.run = run
        self.stream = stream
        self.batcher = batcher
        self.gradients = gradients
        self.sync = sync
        self.timer = timer
        self.gather = gather
        self.measure_ = measure
        self.decide_ = decide
        self.update_ = update
        self.report = report
        self.forks = forks
        self.search: LineSearch | None = None
        self._dataset_length = stream.source.dataset_length
        self._direction_norm2 = 0.0

    # Forks.

    def judges(self, batch: BatchAccumulator) -> bool:
        return batch.judges

    def judge(self, batch: BatchAccumulator) -> None:
        loss, _ = self.gather.combine_trial(batch, differentiated=False)
        self.end(batch, undo=True)
        batch.spent.seconds += self.run.lap()
        self._forks_decided(self.forks.judge(loss, batch.origin, batch.samples))

    def give_up_forks(self) -> None:
        """The lr rule is to choose its rate without forks of the run."""
        self._forks_decided(self.forks.give_up())

    def _forks_decided(self, decision: Decision | None) -> None:
        if decision is not None:
            self.update_.set_lr(decision.lr)
            self.report.lr(decision)

    # Gather and measure.

    def combine(self, batch: BatchAccumulator) -> BatchRecord:
        return self.gather.combine(batch)

    def sweep_on(self, batch: BatchAccumulator) -> bool:
        return self.gather.sweep_on(batch)

    def totals(self, batch: BatchAccumulator, record: BatchRecord) -> Totals:
        totals = self.gather.totals(batch, record)
        if totals.failed or not totals.weight:
            return totals
        if math.isfinite(totals.norm2):
            failed = self.update_.divergence(totals.loss)
        elif self.update_.loss_scale.can_overflow:
            return totals._replace(overflowed=True)
        else:
            failed = NOT_FINITE
        return totals._replace(failed=failed, loss=math.nan) if failed else totals

    def measure(self, batch: BatchAccumulator, totals: Totals) -> Measurement | None:
        if totals.overflowed or not totals.weight:
            return None
        return self.measure_(batch, totals, self.run.samples)

    # Decide and enlarge.

    def context(
        self, batch: BatchAccumulator, totals: Totals, measurement: Measurement | None, grew: bool
    ) -> StepContext:
        return self.decide_.context(self.run, batch, totals, measurement, grew)

    def decide(self, context: StepContext) -> Decision:
        return Decision() if self.forks.active else self.decide_.batch_size(context)

    def enlarge(self, batch: BatchAccumulator, decision: Decision) -> bool:
        """Draw the samples the rule still wants for this very step; False if it wants none, or there are none."""
        wanted = min(decision.batch_size or 0, self.run.train_samples)
        if not self.decide_.batch_size_rule.enlarges_current or decision.action or wanted <= batch.samples:
            return False
        if not self.batcher.enlarge(batch, wanted):
            return False
        self.gather.more(batch, summed=True)
        self.measure_.reopen(batch)
        batch.decided_step = self.run.steps + 1
        batch.spent.seconds += self.run.lap()
        return True

    # Try.

    def direction(
        self, batch: BatchAccumulator, totals: Totals, context: StepContext
    ) -> Generator[Trial, Outcome, tuple[Decision, Any]]:
        """Make the gradient that of a step, and begin what the lr rule makes of it."""
        self.measure_.close(batch, self.run.samples)
        self._direction_norm2 = self.sync.of_first(self.update_.direction(totals))
        if self.decide_.lr_rule.searches and not self.update_.moves_all:
            self._direction_norm2 = self.update_.clip.slope = squared_norm(p.grad for p in self.update_.moved)
        if self._direction_norm2 != totals.norm2:
            context = replace(context, gradient_norm2=self._direction_norm2)
        return self.forks.search() if self.forks.active else self.decide_.lr(context)

    def try_out(self, batch: BatchAccumulator, trial: Trial) -> None:
        batch.spent.seconds += self.run.lap()
        if self.search is None:
            slope = self.update_.clip.slope
            self.search = LineSearch(self._model, self.update_.moved, self._direction_norm2, slope)
        self.search.move(trial)
        batch.repeat()
        batch.spent.seconds += self.run.lap()

    def outcome(self, batch: BatchAccumulator) -> Outcome:
        assert self.search is not None
        loss, scale = self.gather.combine_trial(batch, self.search.trial.gradient)
        return self.sync.outcome(self.search.outcome(loss, scale))

    def leave_trial(self) -> None:
        if self.search is not None:
            self.search.leave()
            self.search = None

    def clip_once(self, batch: BatchAccumulator, max_norm: float) -> Tensor:
        """Clip the batch under way to this norm; return the norm gathered so far."""
        if not max_norm > 0:
            raise InputError(f"max_norm is {max_norm!r}: give a number above 0; infinity only returns the norm.")
        self.update_.clip.once = max_norm
        norms2 = [n if isinstance(n, Tensor) else torch.tensor(n) for n in self.gradients.norms2()]
        return torch.stack(norms2).sum().sqrt() * self.gather.scale(batch)

    # Update and report.

    def update(self, batch: BatchAccumulator, totals: Totals, size: Decision, lr: tuple[Decision, Any]) -> bool:
        """Apply what the rules decided: the one place where anything is changed."""
        decision, lr_state = lr
        run, update = self.run, self.update_
        self.decide_.commit(lr_state)
        update.prepare(decision, run.steps, totals.loss, totals.samples)
        self.sync.note(run.steps, totals.samples, update.lr, size, decision)
        if update.worth_reporting or decision.action in ("rollback", "stop"):
            self.report.lr(decision)
        for decided in (size, decision):
            if decided.action == "stop":
                run.stopped = decided.reason
        taken = decision.action != "rollback" and not run.stopped
        if taken:
            update.step(totals.samples)
        last = self.forks.end_turn(batch.origin, batch.samples, taken)
        if last:
            self._commit(batch, stepped=True)
        self._set_batch_size(size)
        self.end(batch)
        self.sync.share_buffers()
        update_s = run.lap()
        batch.spent.seconds += update_s
        self._keep_times(batch, totals, update_s, plain=taken and not batch.sweeps)
        if taken and last:
            self.report.step(batch, totals)
        return taken and last

    def _set_batch_size(self, size: Decision) -> None:
        run = self.run
        if size.batch_size is None:
            return
        wanted = max(1, min(size.batch_size, run.train_samples))
        if wanted != run.batch_size:
            self.report.batch_size(run.batch_size, wanted, size)
            run.batch_size, run.decided_step = wanted, run.steps

    def _keep_times(self, batch: BatchAccumulator, totals: Totals, update_s: float, plain: bool) -> None:
        times = StepTimes(
            self.run.steps,
            totals.samples,
            batch.spent.seconds,
            batch.spent.trial_s,
            update_s,
            batch.measured,
            plain,
            batch.spent.passes if batch.compared else [],
        )
        if self.sync.ranks.several:
            self.gather.last_times = times
        else:
            times.teach(self.timer, self.measure_.meter)

    def drop(self, batch: BatchAccumulator, totals: Totals, context: StepContext) -> DivergedError | None:
        """End a batch that leads to no step; return the error to end the run with, if this was a failure too many."""
        last = self.forks.end_turn(batch.origin, batch.samples, stepped=False, failed=bool(totals.failed))
        if not totals.weight:
            self._end_without_step(batch, stepped=False, last=last)
            return None
        if totals.overflowed:
            scale = self.update_.loss_scale.value
            self.update_.loss_scale.adapt(overflowed=True)
            self._end_without_step(batch, stepped=True, last=last)
            self.report.overflow(scale)
            return None
        if self.forks.active and not self.forks.all_failed:
            self._end_without_step(batch, stepped=True, last=last)
            return None
        if self.forks.active:
            self._forks_decided(self.forks.end_round())
        decision = self.decide_.failed(context)
        if decision is not None:
            self.update_.set_lr(decision.lr)
            if decision.action == "rollback":
                self.report.lr(decision)
        self._end_without_step(batch, stepped=True)
        diverged = self.update_.fail(self.run.steps, totals.failed)
        self.report.failure(totals.failed)
        return diverged

    def _end_without_step(self, batch: BatchAccumulator, stepped: bool, last: bool = True) -> None:
        self.decide_.discard()
        if last:
            self._commit(batch, stepped)
        self.end(batch)
        self.gather.last_times = None

    def _commit(self, batch: BatchAccumulator, stepped: bool) -> None:
        """The batch's samples are used up, whether or not they led to a step."""
        self.run.steps += stepped
        self.run.samples += batch.samples
        self.stream.discard_consumed()
        self.report.consumed(batch.intervals)

    def do_not_cut(self, reason: str) -> None:
        """The samples of a batch depend on each other: each batch is one pass, and its noise that of whole batches.

        Raises:
            UnsupportedError: several processes have a part of each batch.
        """
        if self.sync.ranks.several:
            raise UnsupportedError(
                f"Each process sees only its share of a batch, but {reason}: gather the outputs of all processes in "
                "the loss and give micro_batch=, or train in one process."
            )
        self.batcher.uncut = True
        if self.measure_.meter is not None:
            self.measure_.meter.compare_batches(reason)

    def require_same_length(self) -> None:
        """Raise where the data set has another length than when the loop was built.

        Raises:
            InputError: naming both.
        """
        now, before = self.stream.source.dataset_length, self._dataset_length
        if now != before:
            raise InputError(
                f"The data set has {now} samples now, and had {before} when the loop was built: build a new AutoBatch, "
                "which continues with load_state_dict only on the same data."
            )

    def refresh(self) -> None:
        """Take in parameters that were frozen, unfrozen or added since the last batch."""
        self.give_up_forks()
        self.update_.refresh(self.run.steps)
        if self.measure_.meter is not None:
            self.measure_.meter.rebuild(self.gradients.parameters)
        if self.decide_.distance is not None:
            self.decide_.distance.refresh(self.gradients.parameters)

    def end(self, batch: BatchAccumulator, undo: bool = False) -> None:
        """Leave nothing of the batch behind; `undo`: it was abandoned."""
        self.gradients.forget()
        self.update_.clip.once = None
        self.measure_.forget(batch, self.run.samples, undo)
        self.timer.abandon_sweep()
