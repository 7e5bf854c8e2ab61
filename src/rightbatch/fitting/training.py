"""One call of `fit` under way: the loop, evaluations, checkpoints, and how it ends."""

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from .._version import __version__
from ..data import Sample, Source
from ..errors import InputError, RunFolderError
from ..loop.auto_batch import AutoBatch
from ..loop.callback import Callback, Callbacks
from ..loop.distributed.sharding import gather_full, model_state_like, sharded_modules
from ..loop.memory.forward_limit import ForwardLimit
from ..noise.isolation import devices_of, modes_kept
from ..record import counted_events
from ..record.events import EVALUATION_FIELDS
from ..rule_text import write_rule
from .best import BestIterate
from .checkpoint import Recovered, recover, save_checkpoint, set_aside_damaged
from .checkpoint_schedule import CheckpointSchedule
from .choice import IterateChoice
from .evaluation import CHUNK_SAMPLES, evaluate, normalizes_batches, refresh_batch_norm
from .preparing import FitSettings, Prepared
from .randomness import begin_at, random_states, seed_of, set_random_states
from .recorder import Recorder, machine, now
from .stopping import Interruption
from .weights import save_weights


class Rows(Callback):
    """Collects the rows of steps and evaluations, in order."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def step(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def evaluation(self, row: dict[str, Any]) -> None:
        self.rows.append(row)


class _Changes(Callback):
    """Collects the settings that differ at a resume, to report them once it is recorded."""

    def __init__(self) -> None:
        self.found: list[tuple[str, Any, Any]] = []

    def change(self, step: int, samples: int, name: str, old: Any, new: Any) -> None:
        self.found.append((name, old, new))


class Stopwatch:
    """Seconds of a run by the clock, those before a resume included."""

    def __init__(self) -> None:
        self.resumed_s = 0.0
        self._started_s = perf_counter()

    def start(self) -> None:
        """Training starts now."""
        self._started_s = perf_counter()

    @property
    def seconds(self) -> float:
        """So far."""
        return self.resumed_s + perf_counter() - self._started_s


class Training:
    """One call of `fit` under way.

    Args:
        prepared: what to train, on what.
        given: the caller's arguments.
        recorder: writes the run folder.
    """

    def __init__(self, prepared: Prepared, given: FitSettings, recorder: Recorder) -> None:
        self.auto = auto = prepared.auto
        self.prepared = prepared
        self.ranks = auto.ranks
        self.model = auto.model
        self.seed = given.seed
        self.budget = prepared.budget
        # Without activations held, more samples fit than in training.
        self.evaluation_limit = ForwardLimit(min(CHUNK_SAMPLES, given.micro_batch or CHUNK_SAMPLES))
        self.eval_samples = max(1.0, given.eval_every * len(prepared.train))
        self.recorder = recorder
        self.history = Rows()
        self.listeners = Callbacks([self.history, recorder, *given.callbacks])
        self.checkpoints = CheckpointSchedule(given.checkpoint_every)
        self.checkpointed = (-1, -1)
        self.devices = devices_of(auto.model)
        blocks = prepared.train.block_ends is not None
        self.sample = Sample(prepared.train) if blocks else prepared.train  # BatchNorm's statistics are of these
        self.best = BestIterate(self.budget)
        if self.budget.seconds is not None:
            auto.limit_seconds(self.budget.seconds, lambda: self.ranks.largest(self.watch.seconds))
        self.choice = IterateChoice(auto, prepared.valid, self._evaluated, self.best.cost)
        self.evaluated_step = -1
        self.next_evaluation = self.eval_samples
        self.watch = Stopwatch()

    @property
    def device(self) -> torch.device:
        """The model's."""
        return next(self.model.parameters()).device

    def begin(self, resume: bool) -> None:
        """Announce the run, or resume it from its last checkpoint."""
        folder = self.recorder.folder
        recovered = self.ranks.on_first(lambda: recover(folder) if resume and folder is not None else None)
        resumed = ""
        if recovered is not None:
            self._load(recovered)
            resumed = f", resumed after step {self.auto.steps:,}"
        else:
            if resume and folder is not None and any(f.stat().st_size for f in (folder.events, folder.ledger)):
                self.recorder.resumed(0, 0, 0, 0)  # killed before its first checkpoint: nothing of it counts
                resumed = ", restarted: no checkpoint found"
            self._announce()
        prepared = self.prepared.train
        data = "" if prepared.preprocessing is None else f"; data: {prepared.describe()}"
        self.recorder.progress.begin(
            None if self.budget.epochs is None else self.budget.epochs * len(self.prepared.train),
            self.budget.seconds,
            f"{type(self.model).__name__}, {len(prepared):,} samples, {self.budget.describe()}{resumed}{data}",
            self.watch.resumed_s,
        )
        for note in self.prepared.notes:
            self.recorder.note(note)
        self.auto.observe(self.listeners)

    def run(self) -> "Ended":
        """Train until something ends it; the model then holds the best iterate."""
        folder = self.recorder.folder
        try:
            with modes_kept(self.model):
                stopped = self._train()
            test = None if self.prepared.test is None else self._evaluated(self.prepared.test)
            weights = gather_full(self.model.state_dict())
            self.ranks.on_first(lambda: None if folder is None else save_weights(folder.model, weights))
        except Exception as error:
            self._fail(error)
            raise
        self._close(stopped, test)
        return Ended(stopped, test)

    def _train(self) -> str:
        """Train, leave the loop, and put the best iterate into the model; why training ended."""
        interruption = Interruption()
        self.model.train()
        self.watch.start()
        try:
            with interruption.watched():
                stopped = self._loop(interruption)
                if self.evaluated_step != self.auto.steps or not self.prepared.valid:
                    self._evaluate(reports=False)  # a run that is resumed has not seen it
                self._checkpoint()
        except KeyboardInterrupt:
            stopped = "interrupted"
        finally:
            self.auto.finalize()
        if self.best.state:
            self.model.load_state_dict(self.best.state)
        elif self.auto.update.averages:
            self._refresh_batch_norm()
        return stopped

    def _loop(self, interruption: Interruption) -> str:
        auto = self.auto
        limit_s = math.inf if self.budget.seconds is None else self.budget.seconds
        for batch in auto:
            steps = auto.steps
            try:
                auto.backward(*self._pass(batch))
            except (RuntimeError, MemoryError) as error:
                auto.handle_oom(error)
                continue
            if auto.step() and auto.samples >= self.next_evaluation:
                reached = self._evaluate()
                self.checkpoints.ask()
                if reached:
                    return reached
            if auto.steps == steps:
                continue  # in the midst of a step the model may be at a trial point
            asked, over, due = auto.sync.agreed(interruption.asked, self.watch.seconds >= limit_s, self.checkpoints.due)
            if due:
                self._checkpoint()
            if over:
                return f"time limit reached ({self.budget.seconds:g} s)"
            if asked:
                return "interrupted"
        return auto.stopped or self.budget.used_up

    def _pass(self, batch: Any) -> tuple[Tensor, Tensor | float | None]:
        """The mean loss of a micro-batch and its units; nothing else of the pass is held."""
        with torch.set_grad_enabled(self.auto.needs_gradient), self.prepared.precision.passes():
            found = self.prepared.loss(self.model, batch)
            return found.loss, found.weight

    def _evaluate(self, reports: bool = True) -> str:
        """Evaluate the iterate that would be shipped; return why the run should end, if it should."""
        auto = self.auto
        while self.next_evaluation <= auto.samples:
            self.next_evaluation += self.eval_samples
        self.evaluated_step = auto.steps
        self.recorder.timing(auto.steps, auto.samples, auto.timer.points(), auto.timer.present())
        if self.prepared.valid is None:
            return ""
        found = self.choice.make(reports)
        with auto.averaged():
            if auto.update.averages:
                self._refresh_batch_norm()
            found = found or self._evaluated(self.prepared.valid)
            row: dict[str, Any] = {
                "step": auto.steps,
                "samples": auto.samples,
                "epoch": auto.epoch,
                "seconds": auto.seconds,
                "valid_loss": found["loss"],
                "valid_accuracy": found.get("accuracy"),
                **{name: found[name] for name in self.prepared.metrics},
            }
            row["best"] = self.best.offer(row, self.model)
        self.listeners.evaluation(row)
        reached = self.budget.reached({k: v for k, v in row.items() if v is not None})
        if not reached and self.budget.patience is not None and self.best.worse_evaluations >= self.budget.patience:
            reached = f"no improvement in {self.best.worse_evaluations} evaluations"
        return reached

    def _evaluated(self, source: Source) -> dict[str, float]:
        p, limit = self.prepared, self.evaluation_limit
        return evaluate(self.model, p.loss, source, self.device, self.ranks, limit, p.precision, p.metrics)

    def _refresh_batch_norm(self) -> None:
        if not self.ranks.several and not normalizes_batches(self.model):
            return
        work = partial(
            refresh_batch_norm, self.model, self.sample, self.device, self.evaluation_limit, self.prepared.loss
        )
        if sharded_modules(self.model):
            work()
        else:
            self.ranks.on_first(work)
        self.ranks.copy_from_first(list(self.model.buffers()))

    def _checkpoint(self) -> None:
        folder = self.recorder.folder
        started_s = self.checkpoints.now()
        at = (self.auto.steps, self.evaluated_step)
        if at != self.checkpointed and any(self.ranks.any(folder is not None)):
            random = self.ranks.collect(random_states(self.devices))
            states = self._states() if self.ranks.first or sharded_modules(self.model) else {}
            self.ranks.on_first(lambda: self._save(random, states))
            self.checkpointed = at
        self.checkpoints.saved(started_s)

    def _states(self) -> dict[str, Any]:
        """Of model and loop, in full; where the model is sharded all processes must ask for them."""
        return {
            "model": gather_full(self.model.state_dict()),
            "auto": self.auto.state_dict(),
            "best": self.best.state_dict(),
        }

    def _save(self, random: list[dict[str, Any]], states: dict[str, Any]) -> None:
        folder = self.recorder.folder
        assert folder is not None
        log_bytes = self.recorder.sync()  # on the disk, the ledger must not lack what the checkpoint has consumed
        save_checkpoint(
            folder.checkpoint,
            {
                **states,
                "next_evaluation": self.next_evaluation,
                "evaluated_step": self.evaluated_step,
                "evaluation_limit": self.evaluation_limit.state_dict(),
                "budget": self.budget.describe(),
                "wall_s": self.watch.seconds,
                "log_bytes": log_bytes,
                "random": random[0],
                "random_of_others": random[1:],
            },
            folder.previous_checkpoint,
        )

    def _load(self, recovered: Recovered) -> None:
        state = recovered.state
        try:
            self.model.load_state_dict(model_state_like(self.model, state["model"]))
        except RuntimeError as error:
            raise InputError(f"The checkpoint does not match this model: {' '.join(str(error).split())}") from error
        changes = _Changes()
        self.auto.observe(changes)
        self.auto.load_state_dict(state["auto"])
        self.best.load_state_dict(state["best"], self.model)
        self.next_evaluation = state["next_evaluation"]
        self.watch.resumed_s = state["wall_s"]
        self.evaluated_step = state["evaluated_step"]
        self.evaluation_limit.load_state_dict(state["evaluation_limit"])
        self.checkpointed = (self.auto.steps, self.evaluated_step)
        random = [state["random"], *state.get("random_of_others", ())]
        if self.ranks.first or self.ranks.size == len(random):
            set_random_states(random[self.ranks.rank], self.devices)
        else:
            begin_at(seed_of(self.seed, self.ranks.rank, self.auto.steps))
        self.history.rows[:] = self.ranks.on_first(lambda: self._record_resume(recovered))
        if state["budget"] != self.budget.describe():
            changes.found.append(("budget", state["budget"], self.budget.describe()))
        for name, old, new in changes.found:
            self.listeners.change(self.auto.steps, self.auto.samples, name, old, new)

    def _record_resume(self, recovered: Recovered) -> list[dict[str, Any]]:
        """Record that the run is resumed; return its history."""
        folder, auto = self.recorder.folder, self.auto
        assert folder is not None
        if recovered.warning:
            set_aside_damaged(folder)
        log_bytes = recovered.state["log_bytes"]
        self.recorder.resumed(auto.steps, *auto.place, log_bytes, recovered.warning, self.ranks.size)
        self.recorder.sync()
        counted = [e for e in counted_events(folder.events) if e["kind"] in ("step", "evaluation")]
        return [{k: v for k, v in event.items() if k != "kind"} for event in counted]

    def _announce(self) -> None:
        auto, valid = self.auto, self.prepared.valid
        self.recorder.event(
            "start",
            version=__version__,
            time=now(),
            machine=machine(self.device),
            processes=self.ranks.size,
            model=type(self.model).__name__,
            parameters=sum(p.numel() for p in self.model.parameters() if p.requires_grad),
            train_samples=len(self.prepared.train),
            data=self.prepared.train.describe(),
            valid_samples=None if valid is None else len(valid),
            batch_size=write_rule(auto.batch_size_rule),
            lr=write_rule(auto.lr_rule),
            optimizer=type(auto.optimizer).__name__,
            seed=self.seed,
            budget=self.budget.describe(),
            noise=_noise(self.auto),
            lower_is_better=self.prepared.metrics.lower_is_better,
        )

    def _fail(self, error: Exception) -> None:
        """End the run by an error; one of writing that comes on top of it is not reported."""
        with suppress(RunFolderError):
            self._close(f"{type(error).__name__}: {error}", None)

    def _close(self, stopped: str, test: Mapping[str, float] | None) -> None:
        auto = self.auto
        self.recorder.event(
            "stop",
            reason=stopped,
            step=auto.steps,
            samples=auto.samples,
            epoch=auto.epoch,
            seconds=auto.seconds,
            best=self.best.row,
            test=test,
            noise=_noise(self.auto),
            decisions=auto.sync.decisions,
        )
        self.recorder.close(_summary(stopped, self.best.row, test))


def _noise(auto: AutoBatch) -> dict[str, str] | None:
    """How the noise is measured at present."""
    return None if auto.meter is None else {"setting": str(auto.meter.settings), "method": auto.meter.method}


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended: why, and what it reached on the test data."""

    stopped: str
    test: dict[str, float] | None


def _summary(stopped: str, best: Mapping[str, Any], test: Mapping[str, float] | None) -> str:
    parts = [stopped]
    if best:
        scores = {"loss": best["valid_loss"], "accuracy": best["valid_accuracy"]}
        scores |= {name: value for name, value in best.items() if name not in EVALUATION_FIELDS}
        parts.append(f"best validation {_listed(scores)} at epoch {best['epoch']:.2f}")
    if test:
        parts.append(f"test {_listed(test)}")
    return "; ".join(parts)


def _listed(scores: Mapping[str, float | None]) -> str:
    written = {"accuracy": ".4f"}
    return ", ".join(f"{name} {v:{written.get(name, '.4g')}}" for name, v in scores.items() if v is not None)
