"""Your own training loop with the batch size and learning rate worked out from what is measured; `fit` runs on it too.

The loop asks for a micro-batch, computes its loss, hands it back and asks for a step. Everything a rule needs (more
samples for the same step, the same samples again at a trial step, a return to an earlier iterate) happens by what is
yielded next and by `step()` answering False, so that a plain loop of four lines runs every rule.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from ..data import as_source
from ..errors import InputError
from ..measurements import NoiseEstimate
from .assembly import LoopParts, assemble
from .callback import Callback
from .distributed.rank_sync import give_gradients_back, take_over_gradients
from .habits import watch_optimizers
from .noise_meter import NoiseMeter


class AutoBatch:
    """An iterable of micro-batches that knows when the gradient is good enough to step.

        auto = rightbatch.AutoBatch(model, optimizer, train)
        for x, y in auto:
            loss = F.cross_entropy(model(x), y)
            auto.backward(loss)
            auto.step()

    There is no `zero_grad`: gradients are removed after every step. With `epochs=None` one `for` covers one epoch,
    as with a DataLoader, and the next `for` the next; otherwise one `for` covers them all. A `for` left early loses
    nothing: the next one begins with the first sample that no step has used.

    If torch.distributed is initialized, the processes train one model: each is yielded its share of a batch, and all
    take the same steps. All must make the same calls, `load_state_dict` included; the model is set to that of rank 0.

    Args:
        model: trained in place: whole, after `fully_shard`, or in DistributedDataParallel, which is not needed.
        optimizer: any torch optimizer over its parameters; None is Nesterov's Adam for lr="auto", plain SGD otherwise.
        train: a nest of tensors or arrays, a map-style Dataset, a DataLoader, a path or a Source; see `as_source`.
        batch_size: "auto" (starts with that of a DataLoader), a number, the name of a rule or a rule.
        lr: None (the optimizer's own), "auto", a number, the name of a rule or a rule.
        clip_norm: maximum norm of the gradient of a step; the whole batch's mean gradient is clipped once, after it
            was measured.
        clip_value: maximum size of each of its entries, instead.
        scaler: a torch.amp.GradScaler, for float16; `backward` scales the loss and `step` unscales the gradients.
        micro_batch: maximum number of samples in one forward pass; affects memory, rounding and BatchNorm only.
        collate: function from a list of samples to a batch.
        noise: `rightbatch.noise.Noise` or its text; None measures, if a rule needs it, for at most 3 % of the time.
        seed: of the order of the samples.
        epochs: see above; lr="auto" decays to 0 over them, and is constant with None.

    Raises:
        InputError: unusable data or settings.
        UnsupportedError: rules, optimizer and model that do not go together.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        train: Any,
        batch_size: Any = "auto",
        lr: Any = None,
        *,
        collate: Any = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        scaler: "torch.amp.GradScaler | None" = None,
        micro_batch: int | None = None,
        noise: Any = None,
        seed: int = 0,
        epochs: int | None = None,
    ) -> None:
        self._given = model
        source = as_source(train, collate=collate)
        given = (model, optimizer, source, batch_size, lr, clip_norm, clip_value, scaler, micro_batch, noise)
        self._parts: LoopParts = assemble(*given, seed, epochs)
        parts = self._parts
        self.model, self.ranks, self.sync = parts.model, parts.sync.ranks, parts.sync
        self.meter: NoiseMeter | None = parts.meter
        self.timer = parts.timer
        self._step, self._engine, self._run = parts.step, parts.engine, parts.step.run
        self.update, self.forks = parts.step.update_, parts.step.forks
        watch_optimizers(self._engine)

    # What a caller may look at.

    @property
    def batch_size(self) -> int:
        """Samples the next step will average over, unless its gradient asks for more."""
        return self._run.batch_size

    @property
    def lr(self) -> float:
        """That of the first parameter group with a rate above 0, at the last step."""
        return self.update.lr

    @property
    def noise(self) -> NoiseEstimate | None:
        """The gradient noise, averaged over the run; None before the first measurement."""
        return self.meter.estimate(self.samples) if self.meter is not None else None

    @property
    def steps(self) -> int:
        """Batches that led to a step, or failed to."""
        return self._run.steps

    @property
    def samples(self) -> int:
        """Samples consumed."""
        return self._run.samples

    @property
    def seconds(self) -> float:
        """Time spent in the loop, without what the caller does between steps."""
        return self._run.seconds

    @property
    def epoch(self) -> float:
        """Passes over the data so far."""
        return self.samples / self.train_samples

    @property
    def train_samples(self) -> int:
        """N."""
        return self._run.train_samples

    @property
    def stopped(self) -> str:
        """Why a rule has ended the run; empty while none has."""
        return self._run.stopped

    @property
    def last(self) -> dict[str, Any]:
        """The numbers of the last step, named as in `Run.history`; empty before the first."""
        return self._step.report.last

    @property
    def dataset(self) -> Any:
        """The data, with their length; a map-style Dataset as it was given."""
        source = self._step.stream.source
        return source if source.dataset is None else source.dataset

    @property
    def place(self) -> tuple[int, int]:
        """(epoch, position) of the first sample that no step has used."""
        return self._engine.place

    @property
    def decided_step(self) -> int:
        """The step with which the size of the batch under way was decided; 0 before any."""
        current = self._engine.current
        return self._run.decided_step if current is None else current.batch.decided_step

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The one given, or the one brought along; it steps the averaging's parameters where the lr rule averages."""
        return self.update.optimizer

    @property
    def batch_size_rule(self) -> Any:
        """The rule for the batch size."""
        return self._step.decide_.batch_size_rule

    @property
    def lr_rule(self) -> Any:
        """The rule for the learning rate."""
        return self._step.decide_.lr_rule

    @property
    def forward_limit(self) -> int:
        """Most samples in one forward pass of one process: `micro_batch`, or less once memory has run out."""
        return self._step.batcher.limit.now

    @property
    def needs_gradient(self) -> bool:
        """Whether the loss of the micro-batch last yielded will be differentiated; False for most trial steps."""
        return self._engine.differentiates

    def averaged(self) -> AbstractContextManager[None]:
        """Within, the model holds the iterate to evaluate and to keep: the average, where the lr rule averages."""
        return self.update.averaged()

    def report_validation(self, loss: float) -> None:
        """Report the loss on validation data to the rules: with lr="auto", weights then decay where it asks for it."""
        self._run.validations, self._run.valid_loss = self._run.validations + 1, float(loss)

    def limit_seconds(self, seconds: float, clock: Callable[[], float]) -> None:
        """Have rules plan for a time limit by a clock, the same in all processes; the caller ends the run."""
        self._run.total_seconds, self._run.clock = seconds, clock

    def finalize(self) -> None:
        """Leave the loop: give back a batch half gathered, put the final iterate into the model."""
        self._engine.abandon()
        self.forks.give_up()
        self.update.finalize()
        give_gradients_back(self._given, self.ranks)

    def observe(self, callback: Callback) -> None:
        """Report to `callback` from now on what happens; before the first step also the first decisions."""
        self._step.report.add(callback)
        if not self.steps:
            size, lr = self._parts.opening
            self._step.report.batch_size(None, self.batch_size, size)
            self._step.report.lr(lr, first=True)

    # The loop.

    def __iter__(self) -> Iterator[Any]:
        self._engine.enter()
        take_over_gradients(self._given)
        end = self._end
        try:
            while (samples := self._engine.next(end)) is not None:
                yield samples
        finally:
            self._engine.leave()

    def __bool__(self) -> bool:
        return True  # also where the length is not known

    def __len__(self) -> int:
        """Micro-batches that the next `for` yields.

        Raises:
            TypeError: the batch size is not fixed, or batches may be repeated or enlarged.
        """
        fixed = getattr(self.batch_size_rule, "name", "") == "fixed"
        if not fixed or self.lr_rule.searches or not self.forks.over or self.meter is not None:
            raise TypeError(
                "The number of micro-batches is not known beforehand, since the batch size or the passes change: count "
                "auto.samples of auto.train_samples, or give batch_size= a number."
            )
        return sum(self._step.batcher.lengths(self.batch_size, self._end))

    @property
    def _end(self) -> int:
        """The epoch before which the next `for` ends."""
        return self._step.stream.epoch + 1 if self._run.epochs is None else self._run.epochs

    def backward(self, loss: Tensor, weight: float | Tensor | None = None) -> None:
        """Differentiate the mean loss of the micro-batch just yielded, weighted by its share of the batch, and measure.

        Args:
            loss: one number, the mean over the units of the micro-batch.
            weight: how many units these are, if not its samples: tokens, say. A tensor is read from the device.

        Raises:
            InputError: no micro-batch waits, or the loss is not one number that depends on the model.
        """
        self._engine.take(loss, weight)

    def skip(self) -> None:
        """Give the micro-batch just yielded back without a loss: its samples are used up and count nothing."""
        self._engine.skip()

    def step(self) -> bool:
        """Take the step if the gradient is good enough; False while more micro-batches or trial steps are needed first.

        Raises:
            InputError: the micro-batch last yielded was not given to `backward`, or the gradients were changed.
            DivergedError: divergence again and again, although the learning rate was cut.
        """
        return self._engine.advance()

    def clip_grad_norm_(self, max_norm: float) -> Tensor:
        """Clip the mean gradient of the batch under way, once it is complete and measured, to this norm.

        Args:
            max_norm: the largest norm.

        Returns:
            The norm of the gradient as gathered so far, a tensor without dimensions; nan before the last micro-batch.
        """
        if self._engine.current is None:
            raise InputError("auto.clip_grad_norm_() must follow auto.backward(loss).")
        return self._step.clip_once(self._engine.current.batch, max_norm)

    def handle_oom(self, error: BaseException) -> None:
        """The micro-batch just yielded ran out of memory: restart the batch with smaller ones; then `continue`.

        Raises:
            BaseException: `error` itself, where it is another, or no micro-batch awaits `backward`.
            OutOfMemoryError: no smaller pass is possible, or the model is sharded.
        """
        self._engine.run_out(error)

    def do_not_cut(self, reason: str) -> None:
        """The samples of a batch depend on each other: each batch is one pass."""
        self._engine.losses.looks_for_coupling = False
        self._step.do_not_cut(reason)

    def step_along_the_sum(self) -> None:
        """The caller's loss is a sum, of which `backward` is given the mean: steps go along the sum."""
        self.update.sums = True

    # State.

    def state_dict(self) -> dict[str, Any]:
        """All that goes with the model's own state to continue bit for bit; a batch half gathered is restarted.

        Plain types and tensors only. Of a sharded model all must call it; the tensors are in the first process.

        Raises:
            InputError: during a line search, while the model is at a trial point.
        """
        return self._parts.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`, the model's own state having been loaded already.

        Another learning rate, batch size, rule or micro-batch than that of the saved run is taken, and reported.

        Raises:
            InputError: the state is of other data, of another optimizer or of other parameter groups.
        """
        self._engine.abandon(restore=False)
        self._parts.load_state_dict(state)
