"""The ways to measure the gradient noise while training, by name; torch is imported when one is built.

A new way is one file here with its `Estimator`, and its line in `METHODS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

    from .estimators.estimator import Estimator
    from .settings import Noise


@dataclass(frozen=True, slots=True)
class Subject:
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
    settings: "Noise"
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
    build: "Callable[[Subject], Estimator]"
    preconditions: bool = False
    projects: bool = False


def _from(module: str, name: str) -> Any:
    return getattr(import_module(f".{module}", __package__), name)


def _hooked(of: Subject, reading: str, *args: Any) -> "Estimator":
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


def estimator(name: str, of: Subject) -> "Estimator":
    """The estimator of that name, audited where the settings ask for it."""
    found = METHODS[name].build(of)
    every = of.settings.audit_every
    return _from("estimators.auditing", "Audited")(found, of.model, every) if every else found
