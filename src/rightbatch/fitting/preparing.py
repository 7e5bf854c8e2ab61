"""What is checked before training starts: arguments, data, loss and model, in this order; nothing is changed before."""

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..data import Source, as_source, hold_out, prepared_alike, require_map_style, require_trainable
from ..data.nest import to_device
from ..errors import InputError
from ..loop.auto_batch import AutoBatch
from ..loop.callback import Callback
from ..loop.distributed.process_group import ProcessGroup
from ..loop.distributed.rank_sync import unwrapped
from ..loop.gradients import trainable
from ..loop.run_state import ENDLESS
from ..noise import Noise
from ..noise.isolation import devices_of
from ..ranges import require_number, require_whole
from .batch_loss import BatchLoss, Objective, ObjectiveLoss, PairLoss, require_objective
from .evaluation import evaluating
from .labels import absent_classes
from .losses import loss_for, objective_kind, require_fitting, require_loss, require_running, tried_output
from .metrics import Metrics
from .precision import Precision
from .randomness import own_random_numbers
from .stopping import Budget
from .torch_losses import torch_loss
from .units import PROBES, Kind, Loss, UnitLoss, kind_of, unit_loss
from .weights import require_storable

MakeOptimizer = Callable[[Any], torch.optim.Optimizer]
A_SUM = (
    "The loss is a sum over the samples: its value grows with the number of samples it is given. Give its mean "
    "(reduction='mean'), so that the learning rate does not depend on the batch size."
)
COUPLED = (
    "the loss of a batch is not the mean of the losses of its samples: they depend on each other, or it is a mean over "
    "units that samples have unequal numbers of"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FitInputs:
    """What `fit` is asked to train, on what; see there."""

    model: nn.Module
    train: Any
    loss: Loss | None
    objective: Objective | None
    collate: Any
    valid: Any
    test: Any
    device: torch.device | str | None
    precision: str | None

    def __post_init__(self) -> None:
        """Raise for a loss or a device that cannot be one.

        Raises:
            InputError: naming the argument.
        """
        require_loss(self.loss)
        require_objective(self.objective, self.loss)
        if self.device is not None and not isinstance(self.device, str | torch.device):
            raise InputError(f"device={self.device!r} cannot be used here: give a name such as 'cpu' or 'cuda:0'.")


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """How `fit` is asked to train; see there."""

    batch_size: Any
    lr: Any
    optimizer: torch.optim.Optimizer | MakeOptimizer | None
    metrics: Mapping[str, Any] | None
    epochs: int | None
    seconds: float | None
    stop_at: Mapping[str, float | str] | None
    patience: int | None
    eval_every: float
    clip_norm: float | None
    clip_value: float | None
    micro_batch: int | None
    noise: Noise | str | None
    seed: int
    run_dir: str | os.PathLike[str] | None
    resume: bool
    callbacks: Sequence[Callback]
    progress: bool | None
    checkpoint_every: float

    def __post_init__(self) -> None:
        """Raise for what cannot be used whatever data and model are.

        Raises:
            InputError: naming the argument.
        """
        require_number("eval_every", self.eval_every, above=0)
        require_number("checkpoint_every", self.checkpoint_every, above=0)
        require_whole("seed", self.seed, least=0)
        optimizer = self.optimizer
        wrong = None
        if self.seed >= 2**64:
            wrong = f"seed is {self.seed}: give a whole number below 2**64."
        elif optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer) and not callable(optimizer):
            wrong = (
                "optimizer must be a torch.optim.Optimizer or a function that makes one of parameters, got "
                f"{optimizer!r}: write optimizer=torch.optim.Adam."
            )
        elif self.run_dir is not None and not isinstance(self.run_dir, str | os.PathLike):
            wrong = f"run_dir must be the path of a folder, got {self.run_dir!r}."
        elif self.resume and self.run_dir is None:
            wrong = "resume=True needs run_dir=, the folder of the run to resume."
        elif not isinstance(self.callbacks, Sequence) or not all(isinstance(c, Callback) for c in self.callbacks):
            wrong = f"callbacks must be a list of rightbatch.Callback objects, got {self.callbacks!r}."
        if wrong is not None:
            raise InputError(wrong)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What training needs, checked.

    Args:
        auto: the loop.
        loss: with its units.
        precision: of passes.
        train: data to train on.
        valid: to validate on.
        test: to test on.
        budget: when the run ends.
        metrics: the user's own.
        notes: what was found of the loss that the user should know.
    """

    auto: AutoBatch
    loss: BatchLoss
    precision: Precision
    train: Source
    valid: Source | None
    test: Source | None
    budget: Budget
    metrics: Metrics
    notes: tuple[str, ...]


def prepare(inputs: FitInputs, given: FitSettings) -> Prepared:
    """Check data, loss, model and rules, and build the loop.

    Raises:
        InputError: unusable data, model, loss or settings; nothing has been changed then.
        UnsupportedError: rules, optimizer, loss and model that do not go together.
    """
    model = unwrapped(inputs.model, ProcessGroup.present())
    with own_random_numbers(given.seed, devices_of(model)):  # trying out data and model may draw some
        train = as_source(inputs.train, collate=inputs.collate)
        require_trainable(train)
        valid, train = _validation(inputs.valid, train, given.seed, inputs.collate)
        test = None if inputs.test is None else _other(inputs.test, inputs.collate)
        for other in (valid, test):
            if other is not None:
                require_map_style(other, "evaluated on")
        valid = None if valid is None else prepared_alike(train, valid)
        test = None if test is None else prepared_alike(train, test, "test")
        metrics = Metrics(given.metrics)
        metrics.require_usable(valid is not None or test is not None, ProcessGroup.present())
        falls = metrics.lower_is_better
        budget = Budget.of(given.epochs, given.seconds, given.stop_at, given.patience, valid is not None, falls)
        parameters = trainable(model)
        _require_accuracy(given.stop_at, valid)
        _move(model, inputs.device)
        sources = {"train": train, "valid": valid, "test": test}
        loss, kind = loss_and_kind(model, inputs.loss, inputs.objective, sources)
        _try_metrics(model, loss, metrics, valid or test)
        optimizer = given.optimizer
        if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
            optimizer = optimizer(parameters)
        if given.run_dir is not None:
            require_storable(model)
        precision = Precision(inputs.precision, parameters[0].device)
        auto = AutoBatch(
            inputs.model,
            optimizer,
            train,
            given.batch_size,
            given.lr,
            clip_norm=given.clip_norm,
            clip_value=given.clip_value,
            scaler=precision.scaler(),
            micro_batch=given.micro_batch,
            noise=given.noise,
            seed=given.seed,
            epochs=budget.epochs or ENDLESS,
        )
    notes = (*_reports(valid, test), *_notes(auto, loss, kind, train, given.micro_batch))
    return Prepared(auto, loss, precision, train, valid, test, budget, metrics, notes)


def loss_and_kind(
    model: nn.Module, loss: Loss | None, objective: Objective | None, sources: Mapping[str, Source | None]
) -> tuple[BatchLoss, Kind]:
    """The loss of a batch, tried on all data, and what it is over samples.

    Args:
        model: tried in evaluation mode, without a trace.
        loss: of output and target; None is the default.
        objective: of model and batch, instead.
        sources: by name, one of them "train".

    Raises:
        InputError: model, loss and data do not go together.
        DataError: targets that the loss cannot take.
    """
    train = sources["train"]
    assert train is not None
    given = {name: source for name, source in sources.items() if source is not None}
    if objective is not None:
        whole = ObjectiveLoss(objective)
        for name, source in given.items():
            require_running(model, whole, source, name)
        kind = objective_kind(model, whole, train)
        if kind is Kind.SUM:
            raise InputError(A_SUM)
        return whole, kind
    for name, source in given.items():
        if not source.supervised:
            raise InputError(
                f"A batch of the {name} data contains {source.form} and is not a pair (input, target): pass "
                "objective=, a function of model and batch that returns the mean loss."
            )
    loss = loss_for(loss, train)
    for name, source in given.items():
        require_fitting(model, loss, source, name)
    unit = unit_loss(loss, train)
    return PairLoss(unit), _kind(model, unit, train)


def _reports(valid: Source | None, test: Source | None) -> tuple[str, ...]:
    """What of the data for evaluation was not as in training, also as warnings."""
    notes = tuple(
        f"{name} data: {report}"
        for name, source in (("validation", valid), ("test", test))
        for report in getattr(source, "reports", ())
    )
    for note in notes:
        warnings.warn(f"{note}.", stacklevel=5)
    return notes


def _notes(auto: AutoBatch, loss: BatchLoss, kind: Kind, train: Source, micro_batch: int | None) -> tuple[str, ...]:
    """What was found of the loss that the user should know; the loop is set up for it."""
    own, notes = torch_loss(loss.unit.loss) if isinstance(loss, PairLoss) else None, []
    absent = absent_classes(train, own.ignored) if own is not None and own.of_classes else ""
    if absent:
        notes.append(absent)
    if kind is Kind.NEITHER:
        if micro_batch is None:
            auto.do_not_cut(COUPLED)
            notes.append(f"{COUPLED}: batches are not cut into micro-batches (micro_batch= cuts them all the same)")
        else:
            notes.append(f"{COUPLED}: with micro_batch= the loss of a batch is the mean over its micro-batches")
        warnings.warn(f"loss: {notes[-1]}.", stacklevel=5)
    if kind is Kind.SUM:
        auto.step_along_the_sum()
    return tuple(notes)


def _kind(model: nn.Module, unit: UnitLoss, train: Source) -> Kind:
    """What the loss is over samples: known of torch's own, tried of others.

    Raises:
        InputError: it is a sum that torch did not name one.
    """
    if unit.known or train.loss is unit.loss:
        return unit.kind
    some = train.sample()  # of a stream, those at its beginning
    device = next(model.parameters()).device
    x, y = to_device(some.fetch(torch.arange(min(PROBES, len(some)))), device)
    output = tried_output(model, x)
    if isinstance(output, Tensor) and isinstance(y, Tensor):
        kind = kind_of(unit.loss, output, y)
    else:
        kind = objective_kind(model, PairLoss(unit), train)
    if kind is Kind.SUM:
        raise InputError(A_SUM)
    return kind


def _try_metrics(model: nn.Module, loss: BatchLoss, metrics: Metrics, source: Source | None) -> None:
    if source is None or not list(metrics) or ProcessGroup.present().several:  # objects would exchange what they count
        return
    device = next(model.parameters()).device
    batch = to_device(source.fetch(torch.arange(min(PROBES, len(source)))), device)
    with evaluating(model):
        found = loss(model, batch)
    metrics.require_outputs(found.outputs, found.targets)
    metrics.try_out(found.outputs, found.targets, device)


def _move(model: nn.Module, device: torch.device | str | None) -> None:
    if device is None:
        return
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device={device!r} cannot be used here: {str(error).splitlines()[0]}") from error


def _require_accuracy(stop_at: Mapping[str, Any] | None, valid: Source | None) -> None:
    if valid is None or "valid_accuracy" not in (stop_at or {}):
        return
    if not valid.labelled:
        raise InputError("valid_accuracy cannot be a target: the targets are not one tensor. Use valid_loss.")
    if valid.y_dtype.is_floating_point or valid.y_shape:
        raise InputError(
            f"valid_accuracy cannot be a target: the targets are {valid.y_dtype} of shape {valid.y_shape}, accuracy "
            "needs one integer class a sample. Use valid_loss."
        )


def _other(data: Any, collate: Any) -> Source:
    """Data to evaluate on: samples are collated like those of `train`, unless they come with a way of their own."""
    own = isinstance(data, str | os.PathLike | Source | DataLoader)
    return as_source(data, collate=None if own else collate)


def _validation(valid: Any, train: Source, seed: int, collate: Any) -> tuple[Source | None, Source]:
    """The validation data and what is left to train on."""
    if valid is None:
        return None, train
    if isinstance(valid, float):
        if not 0 < valid < 1:
            raise InputError(f"valid as a fraction of train must lie between 0 and 1, got {valid}.")
        rest, held_out = hold_out(train, valid, seed)
        require_trainable(rest)
        return held_out, rest
    source = _other(valid, collate)
    if len(source) == 0:
        raise InputError("valid holds no samples.")
    return source, train
