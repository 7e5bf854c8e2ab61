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

    from .estimator import Estimator
    from .settings import Noise


@dataclass(frozen=True, slots=True)
class Subject:
    """What is to be measured.

    Args:
        model: in the mode it is trained in.
        parameters: its trainable parameters.
        optimizer: what steps them, where there is one.
        settings: of the run.
    """

    model: "nn.Module"
    parameters: "list[nn.Parameter]"
    optimizer: "torch.optim.Optimizer | None"
    settings: "Noise"

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
    """

    summary: str
    build: "Callable[[Subject], Estimator]"
    preconditions: bool = False


def _from(module: str, name: str) -> Any:
    return getattr(import_module(f".{module}", __package__), name)


METHODS: dict[str, Method] = {
    "per-example": Method(
        "‖g_i‖² of every example, exactly, in the ordinary backward pass",
        lambda of: _from("per_example", "PerExampleNorms")(of.model),
    ),
    "micro-batch": Method(
        "the gradients of a few micro-batches, compared; for any model and loss",
        lambda of: _from("micro_batch", "MicroBatches")(of.parameters, of.settings.groups, of.metric),
        preconditions=True,
    ),
}
AUTO = ("per-example", "micro-batch")  # tried in this order
