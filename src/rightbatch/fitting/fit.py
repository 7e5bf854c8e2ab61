"""Train a model in one call: our loop, on the same engine as yours."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..data import Source
from ..loop.auto_batch import AutoBatch
from ..loop.callback import Callback
from ..loop.distributed.rank_sync import unwrapped
from ..models import recipe_of
from ..noise import Noise
from ..record import RunFolder, RunLock
from ..report import Progress
from ..rule_text import write_rule
from .batch_loss import Objective
from .predicting import require_same_preprocessing
from .preparing import FitInputs, FitSettings, MakeOptimizer, Prepared, prepare
from .randomness import own_random_numbers, seed_of
from .recorder import Recorder
from .training import Training
from .units import Loss


@dataclass(slots=True)
class Run:
    """What `fit` returns.

    Args:
        model: the model given, holding the best iterate by validation; without validation data, the last or an average.
        history: one dict per step and per evaluation, in order.
        best: the evaluation `model` comes from; empty without validation data.
        stopped: why the run ended, in words.
        folder: the run folder, if there is one; of several processes only the first has it.
        test: {"loss": ..., "accuracy": ...} and the metrics of `model` on the test data, if there are any.
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
    test: Any = None,
    batch_size: Any = "auto",
    lr: Any = "auto",
    optimizer: torch.optim.Optimizer | MakeOptimizer | None = None,
    *,
    objective: Objective | None = None,
    collate: Callable[[list[Any]], Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    epochs: int | None = None,
    seconds: float | None = None,
    stop_at: Mapping[str, float | str] | None = None,
    patience: int | None = None,
    eval_every: float = 1.0,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    precision: str | None = None,
    micro_batch: int | None = None,
    noise: Noise | str | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
    checkpoint_every: float = 600.0,
) -> Run:
    """Train `model` with the batch size and learning rate chosen from what is measured on the way.

    If torch.distributed is initialized, all processes make this call and train one model; the first writes.

    Args:
        model: trained in place.
        train: a nest of tensors or arrays, a map-style Dataset, a DataLoader, a path or a Source; see `as_source`.
        loss: `loss(output, target)` of pairs (input, target); the parts of a tuple or mapping are passed as arguments.
            Default: cross-entropy for integer targets, else mean squared error. The units of torch's own losses are
            known (class weights, `ignore_index`, a sum); another must be a mean.
        valid: like `train`, or the fraction of `train` to hold out. The iterate with the least validation loss,
            or the best by the only target in `stop_at`, is returned.
        test: like `train`; evaluated once, at the end.
        batch_size: "auto", a number, the name of a rule or a rule.
        lr: "auto", a number, the name of a rule, a rule, or None for the optimizer's own.
        optimizer: a torch optimizer of the model's parameters, or a function from parameters to one. Default:
            Nesterov's Adam for lr="auto", schedule-free Adam if the lr rule averages, plain SGD otherwise.
        objective: of other data, `objective(model, batch)`: the mean loss, or (loss, number of units), or
            (loss, number, outputs), for metrics (loss, number, (outputs, targets)).
        collate: function from a list of samples to a batch.
        metrics: such as {"f1": fn}, evaluated over all of `valid` and `test`: fn(outputs, targets) returns a number for
            the outputs and targets of all samples, joined on the CPU. Or objects with reset(), update(outputs, targets)
            and compute(), as in torchmetrics. Each name is a key of the history, of `best` and of `test`.
        epochs: maximum passes over the data, at whose end the rate of lr="auto" is 0; `Budget` says what holds without.
        seconds: time limit, evaluation included; the same.
        stop_at: such as {"valid_loss": 0.3} or {"f1": 0.9}; stops when one is reached, from below unless the name ends
            in "loss" or "error", or as text says: {"perplexity": "<= 20"}. A single target also says what best means.
        patience: stops after so many evaluations without a better one.
        eval_every: epochs between evaluations.
        clip_norm: see `AutoBatch`.
        clip_value: see `AutoBatch`.
        precision: None, "bf16" or "fp16" for the forward passes (torch.autocast).
        micro_batch: see `AutoBatch`.
        noise: see `AutoBatch`.
        seed: of the order of the samples and of dropout; the caller's random numbers are left alone.
        device: where the model is moved first; None leaves it where it is.
        run_dir: folder for settings, events, ledger, checkpoints, parameters and report, of one run at a time.
        resume: resume the run in `run_dir`, if there is one; changed settings are taken, and reported.
        callbacks: objects of `rightbatch.Callback` that listen to the run.
        progress: show progress; None shows a live view on a terminal and plain lines elsewhere.
        checkpoint_every: maximum seconds between checkpoints; they also follow evaluations, for 2 % of the time.

    Raises:
        InputError: unusable data, model, loss or settings; nothing has been changed then.
        RunFolderError: `run_dir` cannot be used or written; the last checkpoint is whole, and resume=True continues.
        DivergedError: it diverged again and again, at lower learning rates too; everything up to then is written.
        OutOfMemoryError: memory ran out over a single sample; likewise.
    """
    return _run(**locals())


def _run(**settings: Any) -> Run:
    inputs = FitInputs(**{field.name: settings.pop(field.name) for field in fields(FitInputs)})
    given = FitSettings(**settings)
    prepared = prepare(inputs, given)
    auto = prepared.auto
    try:
        recorder = _recorder(prepared, given)
    except BaseException:
        auto.finalize()
        raise
    training = Training(prepared, given, recorder)
    try:
        with own_random_numbers(seed_of(given.seed, auto.ranks.rank), training.devices):
            try:
                training.begin(given.resume)
            except BaseException:
                auto.finalize()
                raise
            ended = training.run()
    finally:
        recorder.release()
    folder = recorder.folder.path if recorder.folder is not None else None
    return Run(auto.model, training.history.rows, training.best.row, ended.stopped, folder, ended.test)


def _config(prepared: Prepared, given: FitSettings) -> dict[str, Any]:
    auto: AutoBatch = prepared.auto
    return {
        "model": type(auto.model).__name__,
        "built_as": _recipe(unwrapped(auto.model, auto.ranks), prepared.train, given.seed),
        "data": prepared.train.describe(),
        "classes": prepared.train.classes,
        "train_samples": auto.train_samples,
        "batch_size": write_rule(auto.batch_size_rule),
        "lr": write_rule(auto.lr_rule),
        "noise": None if auto.meter is None else str(auto.meter.settings),
        "optimizer": type(auto.optimizer).__name__,
        "clip_norm": given.clip_norm,
        "clip_value": given.clip_value,
        "precision": prepared.precision.name,
        "seed": given.seed,
        "budget": prepared.budget.describe(),
        "metrics": list(given.metrics or ()),
        "eval_every": given.eval_every,
    }


def _recipe(model: nn.Module, train: Source, seed: int) -> dict[str, Any] | None:
    """How to build the model again for predictions; without its name, if it was not built by name."""
    recipe = recipe_of(model)
    if recipe is not None or not train.pair:
        return recipe
    outputs = train.classes if train.classes is not None else prod(train.y_shape)
    return {"name": None, "x_shape": list(train.x_shape), "outputs": outputs, "seed": seed}


def _recorder(prepared: Prepared, given: FitSettings) -> Recorder:
    """The recorder of a run; the first process has it, the others report nothing to anyone."""
    made: list[Recorder] = []
    prepared.auto.ranks.on_first(lambda: made.append(_locked(prepared, given, Progress(given.progress))))
    return made[0] if made else Recorder(None, Progress(False))


def _locked(prepared: Prepared, given: FitSettings, progress: Progress) -> Recorder:
    """The recorder of a run, its folder locked before anything in it is looked at."""
    if given.run_dir is None:
        return Recorder(None, progress)
    folder = RunFolder(Path(given.run_dir))
    folder.require_writable()
    lock = RunLock(folder.lock)
    try:
        preprocessing = prepared.train.preprocessing
        if given.resume and folder.holds_run:
            require_same_preprocessing(folder, preprocessing)
        else:
            RunFolder.create(given.run_dir, _config(prepared, given))
            if preprocessing is not None:
                folder.write_preprocessing(preprocessing.as_dict())
        return Recorder(folder, progress, lock)
    except BaseException:
        lock.release()
        raise
