"""Your own training loop with the batch and the step size worked out from what is measured; also the engine of `fit`.

The loop asks for a micro-batch, computes its loss, hands it back and asks for a step. Everything a rule needs (more
samples for the same step, the same samples again at a trial step, a return to an earlier iterate) happens by what is
yielded next and by `step()` answering False, so that a plain loop of four lines runs every rule.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from ..data import BatchStream, IterableSource, as_source, require_trainable
from ..decision import BatchSizeRule, Decision, LRRule, Needs, Outcome, Plan, StepContext
from ..errors import InputError
from ..measurements import Measurement, NoiseEstimate
from ..noise.gradient_norm import is_part
from ..ranges import require_whole
from ..rule_text import write_rule
from .accumulator import BatchAccumulator, require_loss
from .callback import Callback
from .distance import Distance
from .distributed.process_group import ProcessGroup
from .distributed.rank_sync import RankSync, Seen, digest_of, give_gradients_back, take_over_gradients, unwrapped
from .distributed.sharding import out_of_memory, squared_norm
from .line_search import LineSearch
from .memory.forward_limit import BatchSnapshot, ForwardLimit, exhausted, is_out_of_memory, let_go, release
from .micro_batcher import MicroBatcher
from .noise_meter import NoiseMeter
from .optimizer_settings import apply_settings, settings_of
from .reporting import Place, Teller
from .resolving import require_compatible, require_enough, resolve, resolve_noise, trainable
from .rule_state import restored
from .timing.step_timer import StepTimer
from .timing.timekeeper import Timekeeper
from .update import Stepper

LARGEST_FORWARD_SAMPLES = 4096
ENDLESS = 2**31  # epochs of a run that ends otherwise


class AutoBatch:
    """An iterable of micro-batches that knows when the gradient is good enough to step.

        auto = rightbatch.AutoBatch(model, optimizer, train)
        for x, y in auto:
            loss = F.cross_entropy(model(x), y)
            auto.backward(loss)
            auto.step()

    Gradients are set to None after every step, so there is no `zero_grad`. With `epochs=None` one `for` covers one
    epoch, as with a DataLoader, and the next `for` the next; otherwise one `for` covers them all. A `for` left early
    loses nothing: the next one begins with the first sample that no step has used.

    Where torch.distributed has been initialised, the processes train one model: the batch is that of all of them, each
    is yielded its share, and all take the same steps. All must make the same calls, `load_state_dict` included; model
    and buffers are set to those of rank 0.

    Args:
        model: trained in place: whole, after `fully_shard`, or in DistributedDataParallel, which is not needed.
        optimizer: any torch optimizer over them; None brings one that suits the step rule: schedule-free Adam for
            "auto", plain SGD otherwise. With lr="auto" it steps the averaging's parameters until `finalize`.
        train: a pair of tensors or arrays, a map-style Dataset, a path or a Source.
        batch_size: "auto", a number, the name of a rule or a rule.
        lr: None (the optimizer's learning rate is left alone), "auto", a number, the name of a rule or a rule.
        micro_batch: most samples in one forward pass; memory only, but for rounding and BatchNorm, which sees passes.
        seed: of the order of the samples.
        epochs: see above.
        noise: how the gradient noise is measured: `rightbatch.noise.Noise` or its text, such as "auto(budget=0.01)".
            None measures where a rule needs it, for at most 3 % of the time.

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
        micro_batch: int | None = None,
        seed: int = 0,
        epochs: int | None = None,
        noise: Any = None,
    ) -> None:
        self.ranks = ProcessGroup.present()
        self._given, model = model, unwrapped(model, self.ranks)
        parameters = trainable(model)
        for name, value in (("micro_batch", micro_batch), ("epochs", epochs)):
            if value is not None:
                require_whole(name, value, least=1)
        self.batch_size_rule: BatchSizeRule
        self.lr_rule: LRRule
        self.batch_size_rule, self.lr_rule = resolve(batch_size, lr)
        require_compatible(self.lr_rule, optimizer)
        settings = resolve_noise(noise, self.batch_size_rule, self.lr_rule)
        self._rules = {"batch_size": write_rule(self.batch_size_rule), "lr": write_rule(self.lr_rule)}
        self._rules["noise"] = str(settings or "none")
        source = as_source(train)
        require_trainable(source)
        require_enough(self.batch_size_rule, len(source))
        same = {"train": len(source), "rules": self._rules, "seed": seed, "epochs": epochs, "micro_batch": micro_batch}
        if isinstance(source, IterableSource):
            same["the first samples of the stream"] = digest_of(source.fetch(torch.arange(2)))
        self.consensus = RankSync(self.ranks, model, parameters, same)
        self.model = model
        self.train_samples = len(source)
        self.epochs = epochs
        self._device = parameters[0].device
        self._stream = BatchStream(source, seed=seed, device=self._device)
        self._parameters = parameters
        self._waits = is_part(parameters[0])  # for the other processes, in each pass
        self._stepper = Stepper(model, parameters, optimizer, self.lr_rule)
        self._needs = self.batch_size_rule.needs | self.lr_rule.needs
        projections = Needs.PROJECTIONS in self._needs
        self.meter = (
            NoiseMeter(model, parameters, settings, self.optimizer, projections, self.ranks) if settings else None
        )
        self._distance = Distance(parameters) if Needs.DISTANCE in self._needs else None
        self.clock = StepTimer()
        self._timekeeper = Timekeeper(self.clock, self.meter, self.consensus)
        self._beginning = BatchSnapshot(model, self._device)
        self._feed = MicroBatcher(
            self.ranks,
            self._stream,
            epochs,
            exact=not (self.batch_size_rule.needs or self.batch_size_rule.enlarges_current),
            limit=ForwardLimit(micro_batch or LARGEST_FORWARD_SAMPLES, model),
            clock=self.clock,
            meter=self.meter,
            device=self._device,
            timed=Needs.TIME in self._needs,
            repeatable=self.lr_rule.searches,
        )
        self.steps = self.samples = self._decided_step = 0
        self.seconds = self._mark_s = 0.0
        self.stopped = ""
        self.last: dict[str, Any] = {}
        plan = Plan(
            train_samples=self.train_samples,
            parameter_count=sum(p.numel() for p in parameters),
            parameter_norm=self.consensus.of_first(math.sqrt(squared_norm([p.detach() for p in parameters]))),
            lr=self.lr,
            total_samples=self._total_samples,
            optimizer=type(self.optimizer).__name__,
            settings=settings_of(self.optimizer),
        )
        size, self._size_state = self.batch_size_rule.start(plan)
        self._wanted = min(size.batch_size or 1, self.train_samples)
        rate, self._step_state = self.lr_rule.start(plan)
        self._stepper.set_rate(rate.lr)
        self._stepper.told_rate = self.lr
        apply_settings(self.optimizer, rate.settings)
        self._opening = (size, rate)
        self._teller = Teller(self.meter, self._stepper, self.train_samples)
        self._gathering: BatchAccumulator | None = None

    @property
    def _total_samples(self) -> int | None:
        return self.epochs * self.train_samples if self.epochs is not None and self.epochs < ENDLESS else None

    # What a caller may look at.

    @property
    def batch_size(self) -> int:
        """Samples the next step will average over, unless its gradient asks for more."""
        return self._wanted

    @property
    def decided_step(self) -> int:
        """The step with which the size was decided that the micro-batch last yielded was cut under; 0 before any."""
        return self._decided_step if self._gathering is None else self._gathering.decided_step

    @property
    def lr(self) -> float:
        """That of the first parameter group at the last step."""
        return self._stepper.lr

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The one given, or the one brought along; it steps the averaging's parameters where the step rule averages."""
        return self._stepper.optimizer

    @property
    def noise(self) -> NoiseEstimate | None:
        """The gradient noise, smoothed over the run; None before the first measurement."""
        return self.meter.estimate(self.samples) if self.meter is not None else None

    @property
    def epoch(self) -> float:
        """Passes over the data so far."""
        return self.samples / self.train_samples

    @property
    def forward_limit(self) -> int:
        """Most samples in one forward pass of one process: `micro_batch`, or less once memory has run out."""
        return self._feed.limit.now

    @property
    def needs_gradient(self) -> bool:
        """Whether the loss of the micro-batch last yielded will be differentiated; False for most trial steps."""
        return self._gathering is None or self._gathering.wants_gradient

    @property
    def averages(self) -> bool:
        """Whether the iterate to evaluate is another than the one being trained; see `averaged`."""
        return self._stepper.averages

    def averaged(self) -> AbstractContextManager[None]:
        """Within, the model holds the iterate to evaluate and to ship: the average, where the step rule averages."""
        return self._stepper.averaged()

    @property
    def place(self) -> tuple[int, int]:
        """(epoch, position) of the first sample that no step has used."""
        return self._gathering.origin if self._gathering is not None else (self._stream.epoch, self._stream.position)

    @property
    def _at(self) -> Place:
        return self.steps, self.samples

    def finalize(self) -> None:
        """Leave the loop for good: give back a batch half gathered and put the iterate to ship into the model."""
        self._abandon()
        self._stepper.finalize()
        give_gradients_back(self._given, self.ranks)

    def observe(self, observer: Callback) -> None:
        """Tell `observer` from now on what happens; before the first step also the first decisions."""
        self._teller.observer = observer
        if not self.steps:
            self._teller.decision(self._at, "batch_size", None, self._wanted, self._opening[0])
            self._teller.decision(self._at, "lr", None, self.lr, self._opening[1])

    # The loop.

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self._abandon()
        self._finish()  # what the caller's own passes have left in the gradients is none of ours
        take_over_gradients(self._given)
        end = self._stream.epoch + 1 if self.epochs is None else self.epochs
        while not self.stopped:
            if self._gathering is None:
                if self._stream.epoch >= end:
                    return
                self._begin()
            gathering = self._gathering
            if gathering is None or not gathering.queue:
                raise InputError("Call auto.step() after every auto.backward(loss); it was left out.")
            self._mark_s = perf_counter()
            try:
                x, y = self._feed.next(gathering)
            except (RuntimeError, MemoryError) as error:
                self.handle_oom(error)
                continue
            yield x, y
            if gathering.awaiting is not None and gathering is self._gathering:
                raise InputError("The micro-batch yielded last was not given to auto.backward(loss).")

    def backward(self, loss: Tensor) -> None:
        """Differentiate the mean loss of the micro-batch just yielded, weighted by its share of the batch, and measure.

        Raises:
            InputError: no micro-batch is waiting, or the loss is not one number that depends on the model.
        """
        gathering = self._gathering
        if gathering is None or gathering.awaiting is None:
            raise InputError("auto.backward(loss) was called without a new micro-batch from the loop.")
        require_loss(loss, self.needs_gradient)
        value = float(loss.detach())
        if not math.isfinite(value) and not gathering.idle:
            gathering.failed = gathering.failed or f"the loss became {value}"
        if gathering.wants_gradient and (self._waits or not gathering.failed):
            gathering.differentiate(loss, self._parameters)
        gathering.note(value, perf_counter() - self._mark_s)
        self._lap(gathering)

    def step(self) -> bool:
        """Take the step if the gradient is good enough; False while more micro-batches, or trials, are wanted first.

        Raises:
            InputError: the micro-batch last yielded was not given to `backward`.
            DivergedError: divergence again and again, although the step size was cut.
        """
        gathering = self._gathering
        if gathering is None or gathering.awaiting is not None:
            raise InputError("auto.step() must follow auto.backward(loss).")
        if gathering.queue:
            return False
        self._mark_s = perf_counter()
        if gathering.line is None:
            return self._complete(gathering)
        self.consensus.hear_trial(gathering)
        if gathering.oversized:
            return self._begin_anew(gathering)
        loss = math.nan if gathering.failed else gathering.trial_loss_sum / gathering.samples
        gathering.failed = ""
        return self._advance(gathering, self.consensus.outcome(gathering.line.outcome(loss, gathering.scale)))

    def handle_oom(self, error: BaseException) -> None:
        """The micro-batch just yielded ran out of memory: all processes begin the batch anew in passes half as large.

        Raises:
            BaseException: `error` itself, where it is another, or no micro-batch awaits `backward`.
            OutOfMemoryError: no smaller pass is possible; raised in all. Or the model is sharded; raised in this one.
        """
        gathering = self._gathering
        if gathering is None or gathering.awaiting is None or not is_out_of_memory(error):
            raise error
        if self._waits:
            raise out_of_memory(self._device) from error
        gathering.run_out()
        let_go(error)
        release(self._device)
        if gathering.line is not None:
            self.consensus.hear_trial(gathering)
        else:
            self.consensus.hear(gathering, add=not gathering.climbs)
        self._begin_anew(gathering, error)

    # BatchAccumulator a batch.

    def _begin(self) -> None:
        self._stepper.begin(self.steps)
        before = self.forward_limit
        self._gathering = self._feed.begin(self.steps, self._wanted)
        self._gathering.decided_step = self._decided_step
        self._beginning.note()
        if self.forward_limit > before:
            self._teller.memory(self._at, before, self.forward_limit, None, str(self._device))

    def _lap(self, gathering: BatchAccumulator) -> None:
        now = perf_counter()
        gathering.seconds += now - self._mark_s
        if gathering.line is not None:
            gathering.trial_s += now - self._mark_s
        self.seconds += now - self._mark_s
        self._mark_s = now

    def _abandon(self) -> None:
        """Give back what an unfinished batch has drawn and leave the model as it was before it."""
        if self._gathering is None:
            return
        if self._gathering.line is not None:
            self._gathering.line.leave()
        if self.meter is not None and self._gathering.meter_state is not None:
            self.meter.load_state_dict(self._gathering.meter_state, self.samples)
        self._feed.give_back(self._gathering)
        self._finish()

    def _begin_anew(self, gathering: BatchAccumulator, error: BaseException | None = None) -> bool:
        """Memory ran out in some process, in all of which this is called: back to before the batch, passes halved."""
        failed = gathering.oversized
        rank = gathering.oversized_rank if self.ranks.several else None
        device = self.ranks.device_of(rank or 0, self._device)
        self._lap(gathering)
        self._abandon()
        self._beginning.put_back()
        if not self._feed.limit.halve(failed):
            raise exhausted(device, rank, failed) from error
        self._teller.memory(self._at, failed, self.forward_limit, rank, device)
        return False

    def _finish(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None
        if self._gathering is not None and self._gathering.meter is not None:
            self._gathering.meter.disarm()
        self._gathering = None
        self.clock.abandon_ladder()

    # A complete gradient: measure, decide, apply.

    def _complete(self, gathering: BatchAccumulator) -> bool:
        if gathering.meter is not None:
            gathering.meter.gather()
        self.consensus.hear(gathering, add=not gathering.climbs)
        if gathering.oversized:
            return self._begin_anew(gathering)
        self._timekeeper.settle(self.steps)
        if not gathering.failed and self._feed.climb(gathering):
            return False
        if gathering.climbs:
            self.consensus.add_gradients(gathering)
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        scale = gathering.scale
        own = Seen(
            float(squared_norm(gradients)) * scale * scale if gradients else math.nan,
            self._distance.measure() if self._distance is not None else None,
            self._stepper.movement,
        )
        seen = own if gathering.failed else self.consensus.seen(own)
        norm2 = seen.gradient_norm2
        if not gathering.failed and not math.isfinite(norm2):
            gathering.failed = "the gradient is not finite"
        gathering.failed = gathering.failed or self._stepper.divergence(gathering.loss)
        if gathering.meter is not None and self.lr_rule.searches and gathering.meter_state is None:
            gathering.meter_state = gathering.meter.state_dict()
        measurement = self._measure(gathering, norm2)
        if measurement is not None and self.meter is not None and not self.batch_size_rule.enlarges_current:
            self.meter.absorb(measurement, self.samples + gathering.samples)
        now = StepContext(
            step=self.steps,
            samples=self.samples,
            batch_size=gathering.samples,
            train_samples=self.train_samples,
            loss=gathering.loss,
            gradient_norm2=norm2,
            lr=self.lr,
            measurement=measurement,
            noise=self.meter.noise if self.meter is not None else None,
            step_time=self.clock.fit() if Needs.TIME in self._needs else None,
            movement=seen.movement,
            grew=gathering.growth is not None,
            wanted=self._wanted,
            distance=seen.distance,
            total_samples=self._total_samples,
        )
        if gathering.failed:
            return self._fail(gathering, now)
        carried = self._size_state if gathering.size_state is None else gathering.size_state
        decision, state = self.batch_size_rule.decide(now, carried)
        if self._enlarge(gathering, decision, state):
            return False
        if decision.batch_size is None and not decision.action and gathering.growth is not None:
            decision = gathering.growth  # the size the batch has grown to is carried on
        gathering.size, gathering.size_state = decision, state
        if gathering.meter is not None:
            if measurement is not None and self.batch_size_rule.enlarges_current:
                gathering.meter.absorb(measurement, self.samples + gathering.samples)
            gathering.meter.disarm()
        if scale != 1.0:
            torch._foreach_mul_(gradients, scale)
        gathering.gradient_norm2 = norm2
        gathering.search = self.lr_rule.decide(now, self._step_state)
        return self._advance(gathering, None)

    def _measure(self, gathering: BatchAccumulator, norm2: float) -> Measurement | None:
        """The noise of the batch as far as it is gathered, and what there is to tell of how it was measured."""
        if gathering.meter is None or gathering.failed:
            return None
        measurement = gathering.meter.measure(norm2, gathering.samples, gathering.scale)
        self._teller.measurement(self._at, gathering.meter.method, measurement)
        return measurement

    def _enlarge(self, gathering: BatchAccumulator, decision: Decision, state: Any) -> bool:
        """Draw the samples the rule still wants for this very step; False if it wants none, or there are none."""
        wanted = min(decision.batch_size or 0, self.train_samples)
        if not self.batch_size_rule.enlarges_current or decision.action or wanted <= gathering.samples:
            return False
        if not self._feed.enlarge(gathering, wanted):
            return False
        self.consensus.set_aside(gathering)
        if gathering.meter is not None:
            gathering.meter.reopen()
        gathering.growth, gathering.size_state, gathering.decided_step = decision, state, self.steps + 1
        self._lap(gathering)
        return True

    def _advance(self, gathering: BatchAccumulator, outcome: Outcome | None) -> bool:
        """Run the step rule to its next trial, or to its decision."""
        assert gathering.search is not None
        try:
            trial = next(gathering.search) if outcome is None else gathering.search.send(outcome)
        except StopIteration as end:
            decision, self._step_state = end.value
            if gathering.line is not None:
                gathering.line.leave()
                gathering.line = None
            return self._apply(gathering, decision)
        self._lap(gathering)
        if gathering.line is None:
            gathering.line = LineSearch(self.model, gathering.gradient_norm2)
        gathering.line.move(trial)
        gathering.repeat()
        self._lap(gathering)
        return False

    def _apply(self, gathering: BatchAccumulator, decision: Decision) -> bool:
        """Apply what the rules decided: the one place where anything is changed."""
        self._size_state = gathering.size_state
        self._stepper.prepare(decision, self.steps, gathering.loss)
        self.consensus.note(self.steps, gathering.samples, self.lr, gathering.size, decision)
        if self._stepper.worth_telling or decision.action in ("rollback", "stop"):
            self._teller.rate(self._at, decision)
        size = gathering.size
        for decided in (size, decision):
            if decided.action == "stop":
                self.stopped = decided.reason
        taken = decision.action != "rollback" and not self.stopped
        if taken:
            self._stepper.step(gathering.samples)
        self._commit(gathering)
        if size.batch_size is not None and not gathering.failed:
            wanted = max(1, min(size.batch_size, self.train_samples))
            if wanted != self._wanted:
                self._teller.decision(self._at, "batch_size", self._wanted, wanted, size)
                self._wanted, self._decided_step = wanted, self.steps
        self._finish()
        self.consensus.share_buffers()
        update_s = perf_counter() - self._mark_s
        self._lap(gathering)
        self._timekeeper.end_step(gathering, update_s, taken, self.steps)
        if taken:
            self.last = self._teller.row(self._at, self.seconds, gathering)
        return taken

    def _fail(self, gathering: BatchAccumulator, now: StepContext) -> bool:
        """The run has diverged: take no step, go back to the last good state, cut the step size."""
        if self.lr_rule.guards:
            try:
                next(self.lr_rule.decide(now, self._step_state))
            except StopIteration as end:
                decision, self._step_state = end.value
                self._stepper.set_rate(decision.lr)
                if decision.action == "rollback":
                    self._teller.rate(self._at, decision)
        self._commit(gathering)
        self._finish()
        diverged = self._stepper.fail(self.steps, gathering.failed)
        self._teller.failure(self._at, gathering.failed)
        if diverged is not None:
            raise diverged
        return False

    def _commit(self, gathering: BatchAccumulator) -> None:
        """The batch's samples are used up, whether or not they led to a step."""
        self.steps += 1
        self.samples += gathering.samples
        self._stream.let_go()
        self._teller.consumed(self.steps, gathering.intervals)

    # State.

    def state_dict(self) -> dict[str, Any]:
        """All that goes with the model's own state to continue bit for bit; a batch half gathered is begun again.

        Plain types and tensors only. Of a sharded model all must call it; the tensors are in the first process.

        Raises:
            InputError: in the midst of a line search, while the model is at a trial point.
        """
        if self._gathering is not None and self._gathering.line is not None:
            raise InputError(
                "auto.state_dict() was called during a line search, while the model is at a trial point: call it when "
                "auto.step() has returned True."
            )
        return {
            "rules": self._rules,
            "stream": self._stream.state_dict(self.place),
            "counts": {name: getattr(self, name) for name in _COUNTS},
            "decisions": self.consensus.decisions,
            "wanted": self._wanted,
            "decided_step": self._decided_step,
            "size_state": asdict(self._size_state),
            "step_state": asdict(self._step_state),
            "stepper": self._stepper.state_dict(),
            "meter": self.meter.state_dict() if self.meter is not None else None,
            "clock": self.clock.state_dict(),
            "forward": self._feed.limit.state_dict(),
            "distance": self._distance.state_dict() if self._distance is not None else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`, the model's own state having been loaded already.

        Raises:
            InputError: the state is of other rules or other data.
        """
        if state["rules"] != self._rules:
            saved, given = (" and ".join(rules.values()) for rules in (state["rules"], self._rules))
            raise InputError(f"The saved state is of {saved}, this run has {given}: give the same, or start anew.")
        self._finish()
        self._stream.load_state_dict(state["stream"])
        for name in _COUNTS:
            setattr(self, name, state["counts"][name])
        self._wanted, self._decided_step = state["wanted"], state["decided_step"]
        self._size_state = restored(self._size_state, state["size_state"])
        self._step_state = restored(self._step_state, state["step_state"])
        self._stepper.load_state_dict(state["stepper"])
        if self.meter is not None and state["meter"] is not None:
            self.meter.load_state_dict(state["meter"], self.samples)
            self._teller.skip_method()
        self.clock.load_state_dict(state["clock"])
        self._feed.limit.load_state_dict(state["forward"])
        if self._distance is not None:
            self._distance.load_state_dict(state["distance"])
        self.consensus.begin_at(state.get("decisions", 0))


_COUNTS = ("steps", "samples", "seconds", "stopped")
