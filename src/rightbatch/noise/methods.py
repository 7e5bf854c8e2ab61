"""The ways to measure the gradient noise while training, by name, and how a run chooses; torch is imported at need.

A new way is one file here with its `Estimator`, and its line in `METHODS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..ranges import require_choice, require_number, require_whole
from ..rule_text import read_rule, write_rule

if TYPE_CHECKING:
    import torch
    from torch import nn

    from .estimators.estimator import Estimator


@dataclass(frozen=True, slots=True)
class Noise:
    """The settings of the measurement.

    A budget is a share of the run's time: the run times its own steps, with and without a measurement, and measures as
    often as the budget allows. How often that is depends on the machine; `every` fixes it instead, so that two runs
    measure the same steps.

    Args:
        method: "auto", the best that the model permits, or one of `METHODS`. A method named is refused where the model
            does not permit it; "auto" goes on to the next and records why.
        budget: share of the run's time that measuring may add.
        every: steps between measurements, in place of the budget; 1 measures every step.
        audit_every: measurements between two audits, in which an estimate is held against exact norms; 0 for none.
        preconditioned: measure the noise of P g_i, P the optimizer's own diagonal preconditioner, in place of g_i.
        groups: micro-batches compared by "micro-batch".
        probes: random signs drawn for each sample by "sketch".
        subset: samples looked at by "subset".

    Raises:
        InputError: a setting out of its range.
    """

    method: str = "auto"
    budget: float = 0.03
    every: int | None = None
    audit_every: int = 0
    preconditioned: bool = False
    groups: int = 4
    probes: int = 1
    subset: int = 32

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        require_choice("Noise.method", self.method, ("auto", *METHODS))
        require_number("Noise.budget", self.budget, above=0, most=1)
        if self.every is not None:
            require_whole("Noise.every", self.every, least=1)
        require_whole("Noise.audit_every", self.audit_every, least=0)
        if not isinstance(self.preconditioned, bool):
            raise InputError(f"Noise.preconditioned is {self.preconditioned!r}: give True or False.")
        require_whole("Noise.groups", self.groups, least=2)
        require_whole("Noise.probes", self.probes, least=1)
        require_whole("Noise.subset", self.subset, least=2)

    def __str__(self) -> str:
        """The text that `noise_settings` reads."""
        return write_rule(self, named="method")


@dataclass(frozen=True, slots=True)
class MeasuredModel:
    """What is to be measured.

    Args:
        model: in the mode it is trained in.
        parameters: its trainable parameters.
        optimizer: what steps them, where there is one.
        settings: of the run.
        projections: whether the spread of the samples along the gradient is wanted too.
    """

    model: "nn.Module"
    parameters: "list[nn.Parameter]"
    optimizer: "torch.optim.Optimizer | None"
    settings: Noise
    projections: bool = False

    @property
    def metric(self) -> "torch.optim.Optimizer | None":
        """The optimizer whose preconditioner is to be applied; None for none."""
        return self.optimizer if self.settings.preconditioned else None


@dataclass(frozen=True, slots=True)
class Method:
    """One way to measure.

    Args:
        summary: what it does, in half a line.
        build: makes its estimator; raises UnsupportedError, naming modules, where the subject does not permit it.
        preconditions: whether it can measure in the optimizer's metric.
        projects: whether it can measure the spread of the samples along the gradient.
    """

    summary: str
    build: "Callable[[MeasuredModel], Estimator]"
    preconditions: bool = False
    projects: bool = False


def _from(module: str, name: str) -> Any:
    return getattr(import_module(f".{module}", __package__), name)


def _hooked(of: MeasuredModel, reading: str, *args: Any) -> "Estimator":
    """Per-example norms by a reading; exactly in the optimizer's metric, and where projections are wanted."""
    if of.metric is not None:
        by = _from("layers.reading", "Weighted")(of.metric)
    else:
        by = _from("layers.reading", "NormReader")() if of.projections else _from("layers.reading", reading)(*args)
    norms: Estimator = _from("estimators.per_example", "PerExampleNorms")(of.model, by, projections=of.projections)
    return norms


METHODS: dict[str, Method] = {
    "sketch": Method(
        "‖g_i‖² of every sample in the ordinary backward pass: exact where that is cheap, else by random signs",
        lambda of: _hooked(of, "Cheapest", of.settings.probes),
        preconditions=True,
        projects=True,
    ),
    "per-example": Method(
        "‖g_i‖² of every sample in the ordinary backward pass, exactly",
        lambda of: _hooked(of, "NormReader"),
        preconditions=True,
        projects=True,
    ),
    "subset": Method(
        "the same, of a few samples drawn at random",
        lambda of: _hooked(of, "Subset", of.settings.subset),
    ),
    "micro-batch": Method(
        "the gradients of a few micro-batches, compared; for any model and loss",
        lambda of: _from("estimators.micro_batch", "MicroBatches")(
            of.parameters, of.settings.groups, of.metric, of.projections
        ),
        preconditions=True,
        projects=True,
    ),
    "norm-layers": Method(
        "exact norms of the normalisation layers alone; their noise scale is not quite that of the model",
        lambda of: _from("estimators.norm_layers", "NormLayerNorms")(of.model),
    ),
    "optimizer-state": Method(
        "what Adam's moments tell; no hooks, slow to follow and biased",
        lambda of: _from("estimators.adam_moments", "AdamMoments")(of.parameters, of.optimizer),
    ),
    "successive": Method(
        "the gradients of two measured batches, compared; takes the movement between them for noise: with every=1",
        lambda of: _from("estimators.successive", "SuccessiveGradients")(of.parameters),
    ),
}
AUTO = ("sketch", "micro-batch")  # tried in this order


def estimator(name: str, of: MeasuredModel) -> "Estimator":
    """The estimator of that name, audited where the settings ask for it."""
    found = METHODS[name].build(of)
    every = of.settings.audit_every
    return _from("estimators.auditing", "Audited")(found, of.model, every) if every else found


def noise_settings(spec: Any) -> Noise:
    """The settings that `spec` means.

    Args:
        spec: the name of a method, "auto" among them, or a name with settings such as "auto(budget=0.01)" or
            "micro-batch(groups=8, every=1)", or `Noise`, which is returned as it is.

    Raises:
        InputError: it means none; names the methods there are.
    """
    if isinstance(spec, Noise):
        return spec
    names = dict.fromkeys(("auto", *METHODS), Noise)
    if isinstance(spec, str):
        return read_rule(spec, names, "noise", named="method")
    raise InputError(
        f"noise={spec!r} is no way to measure: give one of {', '.join(map(repr, names))}, with settings as in "
        "'auto(budget=0.01)', or Noise(...)."
    )
