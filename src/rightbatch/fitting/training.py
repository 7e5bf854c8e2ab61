"""Train a model in one call: our loop, on the same engine as yours."""

import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from .. import __version__
from ..data import Sample, Source, as_source, hold_out, require_map_style, require_trainable
from ..errors import InputError, RunFolderError
from ..loop.auto_batch import ENDLESS, AutoBatch
from ..loop.distributed.process_group import ProcessGroup
from ..loop.distributed.rank_sync import unwrapped
from ..loop.distributed.sharding import model_state_apart, sharded_modules, whole
from ..loop.memory.forward_limit import ForwardLimit
from ..loop.resolving import trainable
from ..noise import Noise
from ..noise.isolation import devices_of
from ..ranges import require_number, require_whole
from ..record import RunFolder, RunLock, counted_events
from ..report import Progress
from ..rule_text import write_rule
from .checkpoint import Recovered, recover, save_checkpoint, set_aside_damaged
from .evaluation import CHUNK_SAMPLES, evaluate, refresh_batch_norm
from .losses import Loss, default_loss, require_fitting
from .randomness import begin_at, own_random_numbers, random_states, seed_of, set_random_states
from .recorder import Recorder, machine, now
from .stopping import Budget, Interruption
from .weights import require_storable, save_weights

MakeOptimizer = Callable[[Any], torch.optim.Optimizer]


@dataclass(slots=True)
class Run:
    """What `fit` returns.

    Args:
        model: the model given, holding the best iterate by validation; without validation data, the last.
        history: one dict per step and per evaluation, in order.
        best: the evaluation `model` comes from; empty without validation data.
        stopped: why the run ended, in words.
        folder: the run folder, if there is one; of several processes only the first has it.
        test: {"loss": ..., "accuracy": ...} of `model` on the test data, if there are any.
    """

    model: nn.Module
    history: list[dict[str, Any]]
    best: dict[str, Any]
    stopped: str
    folder: Path | None
    test: dict[str, float] | None = None


def fit(
    model: nn.Module,
    train: Any,
    loss: Loss | None = None,
    valid: Any = None,
    batch_size: Any = "auto",
    lr: Any = "auto",
    optimizer: torch.optim.Optimizer | MakeOptimizer | None = None,
    epochs: int | None = None,
    seconds: float | None = None,
    stop_at: Mapping[str, float] | None = None,
    eval_every: float = 1.0,
    seed: int = 0,
    device: torch.device | str | None = None,
    micro_batch: int | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: bool | None = None,
    *,
    test: Any = None,
    patience: int | None = None,
    noise: Noise | str | None = None,
    checkpoint_every: float = 600.0,
) -> Run:
    """Train `model`, the batch size and the step size being chosen from what is measured while training goes on.

    Where torch.distributed has been initialised, all processes make this call and train one model; the first writes.

    Args:
        model: trained in place.
        train: a pair of tensors or arrays, a map-style Dataset, a path or a Source.
        loss: `loss(output, target)`, the mean over the samples; by default cross-entropy for integer targets, mean
            squared error for floating-point ones.
        valid: like `train`, or the fraction of `train` to hold out. The iterate with the least validation loss is
            returned.
        batch_size: "auto", a number, the name of a rule or a rule.
        lr: "auto", a number, the name of a rule, a rule, or None for the optimizer's own learning rate.
        optimizer: a torch optimizer over the model's parameters, or a function from parameters to one. None:
            schedule-free Adam where the step rule averages, as "auto" does, and plain SGD otherwise.
        epochs: most passes over the data.
        seconds: most seconds on the wall, evaluation included.
        stop_at: such as {"valid_loss": 0.3}; see `Budget` also for what holds when no budget is given.
        eval_every: epochs between evaluations.
        seed: of the order of the samples and of dropout; the caller's random numbers are left alone.
        device: moved there first; None leaves the model where it is.
        micro_batch: most samples in one forward pass; memory only. Fewer are passed at once where memory runs out.
        run_dir: folder to write to: settings, events, ledger, checkpoints, parameters, report. One run at a time
            writes to it.
        resume: go on with the run in `run_dir`, if there is one.
        progress: show progress; None shows a live view on a terminal and plain lines elsewhere.
        test: like `train`; evaluated once, at the end.
        patience: end after so many evaluations without a better validation loss.
        noise: how the gradient noise is measured, as in `AutoBatch`.
        checkpoint_every: most seconds between two checkpoints; there is one at each evaluation too.

    Returns:
        The run; Ctrl-C, or SIGTERM, ends it early, cleanly, with everything written.

    Raises:
        InputError: unusable data, model, loss or settings; nothing has been changed then.
        RunFolderError: `run_dir` cannot be used, another run is writing to it, or it can no longer be written; the last
            checkpoint is whole then, and resume=True goes on from it.
        DivergedError: it diverged again and again, from smaller steps too; everything up to then is written.
        OutOfMemoryError: memory ran out over a single sample; likewise.
    """
    given, model = model, unwrapped(model, ProcessGroup.present())
    require_number("eval_every", eval_every, above=0)
    require_number("checkpoint_every", checkpoint_every, above=0)
    require_whole("seed", seed, least=0)
    if seed >= 2**64:
        raise InputError(f"seed is {seed}: give a whole number below 2**64.")
    if loss is not None and not callable(loss):
        raise InputError(f"loss must be a function of output and target, got {loss!r}: write loss=F.cross_entropy.")
    if device is not None and not isinstance(device, str | torch.device):
        raise InputError(f"device={device!r} cannot be used here: give a name such as 'cpu' or 'cuda:0'.")
    if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer) and not callable(optimizer):
        raise InputError(
            f"optimizer must be a torch.optim.Optimizer or a function that makes one of parameters, got {optimizer!r}: "
            "write optimizer=torch.optim.Adam."
        )
    if run_dir is not None and not isinstance(run_dir, str | os.PathLike):
        raise InputError(f"run_dir must be the path of a folder, got {run_dir!r}.")
    if resume and run_dir is None:
        raise InputError("resume=True needs run_dir=, the folder of the run to go on with.")
    with own_random_numbers(seed, devices_of(model)):  # trying out data and model may draw some
        source = as_source(train)
        require_trainable(source)
        valid_source, source = _validation(valid, source, seed)
        test_source = None if test is None else as_source(test)
        for other in (valid_source, test_source):
            if other is not None:
                require_map_style(other, "evaluated on")
        budget = Budget.of(epochs, seconds, stop_at, patience, valid_source is not None)
        loss = default_loss(source) if loss is None else loss
        parameters = trainable(model)
        if valid_source is not None and "valid_accuracy" in (stop_at or {}) and not _has_classes(valid_source):
            raise InputError(
                f"valid_accuracy cannot be a target: the targets are {valid_source.y_dtype} of shape "
                f"{valid_source.y_shape}, accuracy needs one integer class a sample. Use valid_loss."
            )
        if device is not None:
            try:
                model.to(device)
            except (RuntimeError, AssertionError) as error:
                raise InputError(f"device={device!r} cannot be used here: {str(error).splitlines()[0]}") from error
        require_fitting(model, loss, source)
        for name, other in (("valid", valid_source), ("test", test_source)):
            if other is not None:
                require_fitting(model, loss, other, name)
        if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
            optimizer = optimizer(parameters)
        if run_dir is not None:
            require_storable(model)
        auto = AutoBatch(given, optimizer, source, batch_size, lr, micro_batch, seed, budget.epochs or ENDLESS, noise)
    try:
        recorder = _recorder(auto.ranks, run_dir, resume, _config(auto, budget, seed, eval_every), progress)
    except BaseException:
        auto.finalize()
        raise
    limit = ForwardLimit(min(CHUNK_SAMPLES, micro_batch or CHUNK_SAMPLES))  # without activations held, more fit
    training = _Training(
        auto, loss, source, valid_source, test_source, limit, budget, eval_every, checkpoint_every, recorder
    )
    try:
        with own_random_numbers(seed_of(seed, auto.ranks.rank), training.devices):
            try:
                training.begin(seed, resume)
            except BaseException:
                auto.finalize()
                raise
            return training.run()
    finally:
        recorder.release()


class _Training:
    """One call of `fit` under way."""

    def __init__(
        self,
        auto: AutoBatch,
        loss: Loss,
        train: Source,
        valid: Source | None,
        test: Source | None,
        evaluation_limit: ForwardLimit,
        budget: Budget,
        eval_every: float,
        checkpoint_every: float,
        recorder: Recorder,
    ) -> None:
        self.auto = auto
        self.ranks = auto.ranks
        self.model = auto.model
        self.loss = loss
        self.train = train
        self.normalised = train if train.block_ends is None else Sample(train)  # what BatchNorm's statistics are of
        self.valid = valid
        self.test = test
        self.evaluation_limit = evaluation_limit
        self.budget = budget
        self.eval_samples = max(1.0, eval_every * len(train))
        self.recorder = recorder
        self.checkpoint_every_s = checkpoint_every
        self.checkpoint_due_s = perf_counter() + checkpoint_every
        self.checkpointed = (-1, -1)
        self.devices = devices_of(auto.model)
        self.device = next(auto.model.parameters()).device
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}
        self.best_state: dict[str, Tensor] = {}
        self.worse_evaluations = 0
        self.evaluated_step = -1
        self.next_evaluation = self.eval_samples
        self.wall_s = 0.0
        self.resumed_wall_s = 0.0

    def begin(self, seed: int, resume: bool) -> None:
        """Announce the run, or take it up where its last checkpoint left it."""
        folder = self.recorder.folder
        recovered = self.ranks.on_first(lambda: recover(folder) if resume and folder is not None else None)
        going_on = ""
        if recovered is not None:
            self._load(recovered, seed)
            going_on = f", going on after step {self.auto.steps:,}"
        else:
            if resume and folder is not None and any(f.stat().st_size for f in (folder.events, folder.ledger)):
                self.recorder.resumed(0, 0, 0, 0)  # killed before its first checkpoint: nothing of it counts
                going_on = ", begun anew: it had no checkpoint yet"
            self._announce(seed)
        self.recorder.progress.begin(
            None if self.budget.epochs is None else self.budget.epochs * len(self.train),
            self.budget.seconds,
            f"{type(self.model).__name__}, {len(self.train):,} samples, {self.budget.describe()}{going_on}",
            self.resumed_wall_s,
        )
        self.auto.observe(self.recorder)

    def run(self) -> Run:
        """Train until something ends it; return the best iterate."""
        stopped = ""
        interruption = Interruption()
        started_s = perf_counter()
        modes = [(module, module.training) for module in self.model.modules()]

        def restore_modes() -> None:
            for module, training in modes:
                module.training = training

        self.model.train()
        try:
            with interruption.watched():
                stopped = self._loop(interruption, started_s)
                self.wall_s = self.resumed_wall_s + perf_counter() - started_s
                if self.evaluated_step != self.auto.steps or not self.valid:
                    self._evaluate()
                self._checkpoint()
        except Exception as error:
            self.auto.finalize()
            restore_modes()
            self._fail(error)
            raise
        except KeyboardInterrupt:
            stopped = "interrupted"
        self.auto.finalize()
        folder = self.recorder.folder
        try:
            try:
                if self.best_state:
                    self.model.load_state_dict(self.best_state)
                elif self.auto.averages:
                    self._refresh_batch_norm()
            finally:
                restore_modes()
            test = None if self.test is None else self._evaluated(self.test)
            weights = whole(self.model.state_dict())
            self.ranks.on_first(lambda: None if folder is None else save_weights(folder.model, weights))
        except Exception as error:
            self._fail(error)
            raise
        self._close(stopped, test)
        return Run(self.model, self.history, self.best, stopped, folder.path if folder is not None else None, test)

    def _loop(self, interruption: Interruption, started_s: float) -> str:
        auto, model, loss = self.auto, self.model, self.loss
        limit_s = math.inf if self.budget.seconds is None else self.budget.seconds - self.resumed_wall_s
        for x, y in auto:
            steps = auto.steps
            try:
                with torch.set_grad_enabled(auto.needs_gradient):
                    auto.backward(loss(model(x), y))
            except (RuntimeError, MemoryError) as error:
                auto.handle_oom(error)
                continue
            if auto.step():
                row = auto.last
                self.history.append(row)
                self.recorder.step(row)
                if auto.samples >= self.next_evaluation:
                    self.wall_s = self.resumed_wall_s + perf_counter() - started_s
                    reached = self._evaluate()
                    self._checkpoint()
                    if reached:
                        return reached
            if auto.steps == steps:
                continue  # in the midst of a step the model may be at a trial point
            now_s = perf_counter()
            asked, over, due = auto.consensus.agreed(
                interruption.asked, now_s - started_s >= limit_s, now_s >= self.checkpoint_due_s
            )
            if due:
                self.wall_s = self.resumed_wall_s + perf_counter() - started_s
                self._checkpoint()
            if over:
                return f"{self.budget.seconds:g} seconds are over"
            if asked:
                return "interrupted"
        return auto.stopped or self.budget.used_up

    def _evaluate(self) -> str:
        """Evaluate the iterate that would be shipped; return why the run should end, if it should."""
        auto = self.auto
        while self.next_evaluation <= auto.samples:
            self.next_evaluation += self.eval_samples
        self.evaluated_step = auto.steps
        self.recorder.timing(auto.steps, auto.samples, auto.clock.points(), auto.clock.present())
        if self.valid is None:
            return ""
        with auto.averaged():
            if auto.averages:
                self._refresh_batch_norm()
            found = self._evaluated(self.valid)
            row: dict[str, Any] = {
                "step": auto.steps,
                "samples": auto.samples,
                "epoch": auto.epoch,
                "seconds": auto.seconds,
                "valid_loss": found["loss"],
                "valid_accuracy": found.get("accuracy"),
            }
            best = not self.best or self._value(row) < self._value(self.best)
            if best:
                self.best = dict(row)
                self.best_state = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        self.worse_evaluations = 0 if best else self.worse_evaluations + 1
        row["best"] = best
        self.history.append(row)
        self.recorder.evaluation(row)
        reached = self.budget.reached({k: v for k, v in row.items() if v is not None})
        if not reached and self.budget.patience is not None and self.worse_evaluations >= self.budget.patience:
            reached = f"{self.worse_evaluations} evaluations brought no better validation loss"
        return reached

    def _evaluated(self, source: Source) -> dict[str, float]:
        return evaluate(self.model, self.loss, source, self.device, self.ranks, self.evaluation_limit)

    def _refresh_batch_norm(self) -> None:
        work = partial(refresh_batch_norm, self.model, self.normalised, self.device, self.evaluation_limit)
        if sharded_modules(self.model):
            work()
        else:
            self.ranks.on_first(work)
        self.ranks.copy_from_first(list(self.model.buffers()))

    def _value(self, row: Mapping[str, Any]) -> float:
        """What the best iterate has least of: validation loss, or error where only an accuracy is the target."""
        if self.budget.stop_at and "valid_loss" not in self.budget.stop_at:
            return -float(row["valid_accuracy"])
        value = float(row["valid_loss"])
        return math.inf if math.isnan(value) else value

    def _checkpoint(self) -> None:
        folder = self.recorder.folder
        self.checkpoint_due_s = perf_counter() + self.checkpoint_every_s
        at = (self.auto.steps, self.evaluated_step)
        if at == self.checkpointed or not any(self.ranks.any(folder is not None)):
            return
        random = self.ranks.collect(random_states(self.devices))
        states = self._states() if self.ranks.first or sharded_modules(self.model) else {}
        self.ranks.on_first(lambda: self._save(random, states))
        self.checkpointed = at

    def _states(self) -> dict[str, Any]:
        """Of model and loop, whole; where the model is sharded all processes must ask for them."""
        return {
            "model": whole(self.model.state_dict()),
            "auto": self.auto.state_dict(),
            "best_state": whole(self.best_state),
        }

    def _save(self, random: list[dict[str, Any]], states: dict[str, Any]) -> None:
        folder = self.recorder.folder
        assert folder is not None
        log_bytes = self.recorder.sync()  # on the disk, the ledger must not lack what the checkpoint has consumed
        save_checkpoint(
            folder.checkpoint,
            {
                **states,
                "best": self.best,
                "worse_evaluations": self.worse_evaluations,
                "next_evaluation": self.next_evaluation,
                "evaluated_step": self.evaluated_step,
                "evaluation_limit": self.evaluation_limit.state_dict(),
                "wall_s": self.wall_s,
                "log_bytes": log_bytes,
                "random": random[0],
                "random_of_others": random[1:],
            },
            folder.previous_checkpoint,
        )

    def _load(self, recovered: Recovered, seed: int) -> None:
        state = recovered.state
        try:
            self.model.load_state_dict(model_state_apart(self.model, state["model"]))
        except RuntimeError as error:
            raise InputError(f"The run to go on with is of another model: {' '.join(str(error).split())}") from error
        self.auto.load_state_dict(state["auto"])
        self.best = dict(state["best"])
        self.best_state = model_state_apart(self.model, {k: v.to(self.device) for k, v in state["best_state"].items()})
        self.worse_evaluations = state["worse_evaluations"]
        self.next_evaluation = state["next_evaluation"]
        self.resumed_wall_s = self.wall_s = state["wall_s"]
        self.evaluated_step = state["evaluated_step"]
        self.evaluation_limit.load_state_dict(state["evaluation_limit"])
        self.checkpointed = (self.auto.steps, self.evaluated_step)
        random = [state["random"], *state.get("random_of_others", ())]
        if self.ranks.first or self.ranks.size == len(random):
            set_random_states(random[self.ranks.rank], self.devices)
        else:
            begin_at(seed_of(seed, self.ranks.rank, self.auto.steps))
        self.history = self.ranks.on_first(lambda: self._go_on_recording(recovered))

    def _go_on_recording(self, recovered: Recovered) -> list[dict[str, Any]]:
        """Write that the run goes on; return its history."""
        folder, auto = self.recorder.folder, self.auto
        assert folder is not None
        if recovered.warning:
            set_aside_damaged(folder)
        log_bytes = recovered.state["log_bytes"]
        self.recorder.resumed(auto.steps, *auto.place, log_bytes, recovered.warning, self.ranks.size)
        self.recorder.sync()
        counted = [e for e in counted_events(folder.events) if e["kind"] in ("step", "evaluation")]
        return [{k: v for k, v in event.items() if k != "kind"} for event in counted]

    def _announce(self, seed: int) -> None:
        auto = self.auto
        self.recorder.event(
            "start",
            version=__version__,
            time=now(),
            machine=machine(self.device),
            processes=self.ranks.size,
            model=type(self.model).__name__,
            parameters=sum(p.numel() for p in self.model.parameters() if p.requires_grad),
            train_samples=len(self.train),
            valid_samples=None if self.valid is None else len(self.valid),
            batch_size=write_rule(auto.batch_size_rule),
            lr=write_rule(auto.lr_rule),
            optimizer=type(auto.optimizer).__name__,
            seed=seed,
            budget=self.budget.describe(),
            noise=self._noise(),
        )

    def _noise(self) -> dict[str, str] | None:
        """How the noise is measured at present."""
        meter = self.auto.meter
        return None if meter is None else {"setting": str(meter.settings), "method": meter.method}

    def _fail(self, error: Exception) -> None:
        """End the run by an error; one of writing that comes on top of it is not told."""
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
            best=self.best,
            test=test,
            noise=self._noise(),
            decisions=auto.consensus.decisions,
        )
        self.recorder.close(_summary(stopped, self.best, test))


def _summary(stopped: str, best: Mapping[str, Any], test: Mapping[str, float] | None) -> str:
    parts = [stopped]
    if best:
        accuracy = f", accuracy {best['valid_accuracy']:.4f}" if best["valid_accuracy"] is not None else ""
        parts.append(f"best validation loss {best['valid_loss']:.4g}{accuracy} at epoch {best['epoch']:.2f}")
    if test:
        accuracy = f", accuracy {test['accuracy']:.4f}" if "accuracy" in test else ""
        parts.append(f"test loss {test['loss']:.4g}{accuracy}")
    return "; ".join(parts)


def _validation(valid: Any, train: Source, seed: int) -> tuple[Source | None, Source]:
    """The validation data and what is left to train on."""
    if valid is None:
        return None, train
    if isinstance(valid, float):
        if not 0 < valid < 1:
            raise InputError(f"valid as a fraction of train must lie between 0 and 1, got {valid}.")
        rest, held_out = hold_out(train, valid, seed)
        require_trainable(rest)
        return held_out, rest
    source = as_source(valid)
    if len(source) == 0:
        raise InputError("valid holds no samples.")
    return source, train


def _has_classes(source: Source) -> bool:
    return not source.y_dtype.is_floating_point and not source.y_shape


def _config(auto: AutoBatch, budget: Budget, seed: int, eval_every: float) -> dict[str, Any]:
    return {
        "model": type(auto.model).__name__,
        "train_samples": auto.train_samples,
        "batch_size": write_rule(auto.batch_size_rule),
        "lr": write_rule(auto.lr_rule),
        "noise": None if auto.meter is None else str(auto.meter.settings),
        "optimizer": type(auto.optimizer).__name__,
        "seed": seed,
        "budget": budget.describe(),
        "eval_every": eval_every,
    }


def _recorder(
    ranks: ProcessGroup,
    run_dir: str | os.PathLike[str] | None,
    resume: bool,
    config: Mapping[str, Any],
    progress: bool | None,
) -> Recorder:
    """The recorder of a run; the first process has it, the others tell nothing to anyone."""
    made: list[Recorder] = []
    ranks.on_first(lambda: made.append(_locked(run_dir, resume, config, Progress(progress))))
    return made[0] if made else Recorder(None, Progress(False))


def _locked(
    run_dir: str | os.PathLike[str] | None, resume: bool, config: Mapping[str, Any], progress: Progress
) -> Recorder:
    """The recorder of a run, its folder locked before anything in it is looked at."""
    if run_dir is None:
        return Recorder(None, progress)
    folder = RunFolder(Path(run_dir))
    folder.require_writable()
    lock = RunLock(folder.lock)
    try:
        if not (resume and folder.holds_run):
            RunFolder.create(run_dir, config)
        return Recorder(folder, progress, lock)
    except BaseException:
        lock.release()
        raise
