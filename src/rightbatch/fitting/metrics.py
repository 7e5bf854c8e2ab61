"""Metrics of the user's own, over the whole of an evaluation's data."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ..data.nest import concatenate, map_tensors, to_device
from ..errors import InputError, OutOfMemoryError
from ..loop.distributed.process_group import ProcessGroup
from ..loop.memory.forward_limit import is_out_of_memory
from ..record.events import EVALUATION_FIELDS
from ..record.history import STEP_COLUMNS, falls

RESERVED = frozenset((*STEP_COLUMNS, *EVALUATION_FIELDS, "loss", "accuracy", "test", "kind"))
_PROTOCOL = ("reset", "update", "compute")


class Metrics:
    """The metrics of `fit`, by name.

    A metric is a function `fn(outputs, targets)` of the outputs and targets of all samples, joined on the CPU, or an
    object with reset(), update(outputs, targets) and compute(), as in torchmetrics: it is updated once per forward
    pass, on the model's device. Outputs of lower precision than float32 are converted to float32. Of several processes,
    each passes its share of the samples: functions receive those of all, and objects must combine them in compute(),
    as torchmetrics does.

    Args:
        given: a metric for each name.

    Raises:
        InputError: a name that is taken, or what is neither a function nor such an object.
    """

    def __init__(self, given: Mapping[str, Any] | None = None) -> None:
        if given is not None and not isinstance(given, Mapping):
            raise InputError(f"metrics must be a mapping such as {{'f1': function}}, got {given!r}.")
        self._functions: dict[str, Callable[[Tensor, Tensor], Any]] = {}
        self._objects: dict[str, Any] = {}
        self._outputs: list[Any] = []
        self._targets: list[Any] = []
        for name, metric in (given or {}).items():
            _require_metric(name, metric)
            of = self._objects if _keeps_state(metric) else self._functions
            of[name] = metric
        self._names = tuple(given or ())

    def __iter__(self) -> Iterator[str]:
        """The names, in the order given."""
        return iter(self._names)

    @property
    def lower_is_better(self) -> dict[str, bool]:
        """Of each name, whether small values are good.

        As the attribute `higher_is_better` of a metric says, which torchmetrics sets; otherwise if the name ends in
        "loss" or "error".
        """
        found = {}
        for name in self._names:
            said = getattr((self._objects | self._functions)[name], "higher_is_better", None)
            found[name] = falls(name) if said is None else not said
        return found

    def require_usable(self, evaluates: bool, ranks: ProcessGroup) -> None:
        """Raise if there is nothing to evaluate on, or if several processes could not combine what they have.

        Raises:
            InputError: with what to pass instead.
        """
        if self._names and not evaluates:
            raise InputError("metrics are evaluated on validation or test data: give valid= or test=.")
        for name, metric in self._objects.items():
            if ranks.several and not getattr(metric, "sync_on_compute", False):
                raise InputError(
                    f"The metric {name!r} is an object that counts the samples of one process, and there are "
                    f"{ranks.size}: pass a function fn(outputs, targets), which receives those of all, or a "
                    "torchmetrics metric with sync_on_compute=True."
                )

    def require_outputs(self, outputs: Any, targets: Any) -> None:
        """Raise if there is nothing to compute metrics of.

        Raises:
            InputError: an objective returns no outputs or no targets.
        """
        if self._names and (outputs is None or targets is None):
            raise InputError(
                "metrics need outputs and targets: have objective return (loss, weight, (outputs, targets))."
            )

    def try_out(self, output: Any, target: Any, device: torch.device) -> None:
        """Raise, on a few samples, if a metric is not one number; errors of its own may be due to their number.

        Raises:
            InputError: naming the metric.
        """
        alone = ProcessGroup()
        for name in self._names:
            one = Metrics({name: (self._objects | self._functions)[name]})
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    one.begin(device)
                    one.update(output, target)
                    one.results(alone)
                except InputError:
                    raise
                except Exception:
                    continue
                finally:
                    one.end()

    def begin(self, device: torch.device) -> None:
        """Start an evaluation."""
        self.end()
        for metric in self._objects.values():
            if callable(getattr(metric, "to", None)):
                metric.to(device)
            metric.reset()

    def update(self, output: Any, target: Any) -> None:
        """Take in the samples of one forward pass.

        Raises:
            OutOfMemoryError: in a metric; the pass cannot be repeated, for others may have counted it.
        """
        if not self._names:
            return
        output = map_tensors(_widened, output)
        for name, metric in self._objects.items():
            _called(name, metric.update, output, target)
        if self._functions:
            cpu = torch.device("cpu")
            self._outputs.append(to_device(output, cpu))
            self._targets.append(to_device(target, cpu))

    def results(self, ranks: ProcessGroup) -> dict[str, float]:
        """The metrics over all samples of all processes; nan for one that is not finite.

        Raises:
            InputError: a metric is not one number.
        """
        found = {name: _number(name, _called(name, metric.compute)) for name, metric in self._objects.items()}
        if self._functions:
            parts = ranks.collect((self._outputs, self._targets))
            outputs = _joined("outputs", [each for theirs, _ in parts for each in theirs])
            targets = _joined("targets", [each for _, theirs in parts for each in theirs])
            self.end()
            for name, function in self._functions.items():
                found[name] = _number(name, _called(name, function, outputs, targets))
        # Processes must agree, also on what a function draws at random.
        values = ranks.gather([found[name] for name in self._names])[0] if self._names else []
        return dict(zip(self._names, values, strict=True))

    def end(self) -> None:
        """Free the samples of an evaluation."""
        self._outputs, self._targets = [], []


def _widened(output: Tensor) -> Tensor:
    output = output.detach()
    return output.to(torch.promote_types(output.dtype, torch.float32)) if output.is_floating_point() else output


def _joined(what: str, pieces: list[Any]) -> Any:
    try:
        return concatenate(pieces)
    except RuntimeError as error:
        raise InputError(
            f"The {what} of different batches cannot be joined ({error}): pass metrics that are objects with reset(), "
            "update(outputs, targets) and compute()."
        ) from error


def _keeps_state(metric: Any) -> bool:
    return all(callable(getattr(metric, method, None)) for method in _PROTOCOL)


def _require_metric(name: Any, metric: Any) -> None:
    wrong = ""
    if not isinstance(name, str) or not name:
        wrong = f"The name of a metric must be text, got {name!r}."
    elif name in RESERVED:
        wrong = f"The metric {name!r} has the name of a quantity that is recorded anyway: choose another name."
    elif isinstance(metric, type):
        wrong = f"The metric {name!r} is the class {metric.__name__}: pass an instance, {metric.__name__}(...)."
    elif not callable(metric) and not _keeps_state(metric):
        wrong = (
            f"The metric {name!r} must be a function fn(outputs, targets) that returns a number, or an object with "
            f"reset(), update(outputs, targets) and compute(); got {metric!r}."
        )
    if wrong:
        raise InputError(wrong)


def _called(name: str, function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(*args)
    except Exception as error:
        if is_out_of_memory(error):
            raise OutOfMemoryError(
                f"Memory ran out in the metric {name!r}. A function receives the outputs of all samples at once: pass "
                "an object with reset(), update(outputs, targets) and compute() instead, or evaluate on fewer samples."
            ) from error
        error.add_note(f"raised by the metric {name!r}")
        raise


def _number(name: str, value: Any) -> float:
    """One number; nan if it is not finite."""
    given = type(value).__name__
    if hasattr(value, "shape") and hasattr(value, "item"):
        given = f"{given} of shape {tuple(value.shape)}"
        value = value.item() if math.prod(value.shape) == 1 else None
    if not isinstance(value, Real):
        raise InputError(
            f"The metric {name!r} returned a {given}: return one number, for instance the mean over the classes."
        )
    return float(value) if math.isfinite(value) else math.nan
