"""The optimizers compared, and one run of each: those whose rate is tuned, and those that do without."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module, util
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DivergedError
from ..experiment import rounded
from ..plain_steps import plain_steps
from ..subject import Subject, everything

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from ...data import Source
    from ...fitting.units import Loss

BETA = 0.9  # of momentum
AVERAGED = "averaged momentum"
STARTS = {"SGD": 0.1, "momentum": 0.02, AVERAGED: 0.2, "RMSProp": 0.001, "Adam": 0.002}  # where the tuning begins
PACKAGED = {
    "schedule-free SGD": ("schedulefree", "SGDScheduleFree"),
    "schedule-free AdamW": ("schedulefree", "AdamWScheduleFree"),
    "Prodigy": ("prodigyopt", "Prodigy"),
}
RULED = {"DoG": "dog", "DoWG": "dowg", "automatic step": "auto"}
AUTOMATIC = "automatic"  # step and batch
LOOKS = 12
MEASURED = 5000  # training samples at most whose loss is taken
SAME_STEPS = 200  # over which the two notations of momentum are compared


def installed(name: str) -> bool:
    """Whether a parameter-free optimizer can be had here."""
    return name not in PACKAGED or util.find_spec(PACKAGED[name][0]) is not None


def made(name: str, model: "nn.Module", rate: float) -> "Optimizer":
    """A tuned optimizer over the model's parameters; torch's defaults but for rate and momentum."""
    from torch import optim

    weights = model.parameters()
    optimizers: dict[str, Callable[[], Optimizer]] = {
        "SGD": lambda: optim.SGD(weights, lr=rate, fused=True),
        "momentum": lambda: optim.SGD(weights, lr=rate, momentum=BETA, fused=True),
        AVERAGED: lambda: optim.SGD(weights, lr=rate, momentum=BETA, dampening=BETA, fused=True),
        "RMSProp": lambda: optim.RMSprop(weights, lr=rate),
        "Adam": lambda: optim.Adam(weights, lr=rate, fused=True),
    }
    return optimizers[name]()


def zero_begun(model: "nn.Module", rate: float) -> "Optimizer":
    """Momentum as the average v ← βv + (1 - β)g begun at v = 0, which torch with dampening begins at the first g."""
    import torch

    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=BETA, dampening=BETA)
    for parameter in model.parameters():
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


@dataclass(frozen=True)
class TrainingProblem:
    """A subject ready to be trained on.

    Args:
        x, y: training samples.
        loss: mean over a batch.
        train: those of them whose loss is taken.
        test: test data.
        source: all training data.
    """

    x: "Tensor"
    y: "Tensor"
    loss: "Loss"
    train: "Source"
    test: "Source"
    source: "Source"

    @classmethod
    def of(cls, subject: Subject) -> "TrainingProblem":
        """Loaded once in a process."""
        return _problem(subject)

    def train_loss(self, model: "nn.Module") -> float:
        """Mean loss over training samples."""
        return self._evaluated(model, self.train)["loss"]

    def tested(self, model: "nn.Module") -> dict[str, float | None]:
        """Loss, and accuracy where there are classes."""
        values = self._evaluated(model, self.test)
        return {"test_loss": _short(values["loss"]), "accuracy": values.get("accuracy")}

    def _evaluated(self, model: "nn.Module", source: "Source") -> dict[str, float]:
        from ...fitting.evaluation import evaluate

        return evaluate(model, self.loss, source, next(model.parameters()).device)


@cache
def _problem(subject: Subject) -> TrainingProblem:
    import torch

    from ...data import as_source
    from ...fitting.losses import default_loss

    source, test = subject.sources()
    x, y = everything(source)
    some = torch.from_numpy(np.linspace(0, len(x) - 1, min(MEASURED, len(x))).astype(np.int64))
    return TrainingProblem(x, y, default_loss(source), as_source((x[some], y[some])), test, source)


def final_loss(
    problem: TrainingProblem, model: "nn.Module", optimizer: "Optimizer", size: int, steps: int, seed: int
) -> float:
    """Training loss after plain steps; inf where it was lost on the way."""
    for step in islice(plain_steps(model, problem.loss, problem.x, problem.y, size, optimizer, seed), steps):
        if not math.isfinite(step.loss):
            return math.inf
    value = problem.train_loss(model)
    return value if math.isfinite(value) else math.inf


def plain_run(
    problem: TrainingProblem, model: "nn.Module", optimizer: "Optimizer", size: int, steps: int, seed: int
) -> dict[str, Any]:
    """Plain steps, with looks at the training loss; packaged optimizers show their average there."""
    marks, seen, losses = _marks(steps), [], []
    for step in islice(plain_steps(model, problem.loss, problem.x, problem.y, size, optimizer, seed), steps):
        if step.number in marks:
            _turn(optimizer, "eval")
            _refresh(optimizer, model, problem)
            seen.append(step.samples)
            losses.append(problem.train_loss(model))
            result = problem.tested(model) if step.number == steps else {}
            _turn(optimizer, "train")
    return {"samples": seen, "losses": rounded(losses), "loss": _short(losses[-1]), **result}


def packaged_run(
    name: str, problem: TrainingProblem, model: "nn.Module", size: int, steps: int, seed: int
) -> dict[str, Any]:
    """An optimizer of another package at its defaults."""
    package, kind = PACKAGED[name]
    optimizer: Optimizer = getattr(import_module(package), kind)(model.parameters())
    _turn(optimizer, "train")
    return plain_run(problem, model, optimizer, size, steps, seed)


def ruled_run(
    problem: TrainingProblem, model: "nn.Module", batch: Any, step: str, samples: int, seed: int
) -> dict[str, Any]:
    """A rule of this library, with whatever optimizer suits it."""
    from ...fitting.evaluation import refresh_batch_norm
    from ...loop.auto_batch import AutoBatch
    from ...loop.run_state import ENDLESS

    auto = AutoBatch(model, None, problem.source, batch, step, seed=seed, epochs=ENDLESS)
    seen, losses, sizes = [], [], []
    result: dict[str, Any] = {}
    looks = 0
    try:
        for x, y in auto:
            auto.backward(problem.loss(model(x), y))
            if not auto.step():
                continue
            sizes.append(auto.last["batch_size"])
            if auto.samples * LOOKS >= samples * (looks + 1):
                looks = auto.samples * LOOKS // samples
                with auto.averaged():
                    refresh_batch_norm(model, problem.source, problem.x.device)
                    seen.append(auto.samples)
                    losses.append(problem.train_loss(model))
                    result = problem.tested(model)
            if auto.samples >= samples:
                break
    except DivergedError:
        losses, result = [math.inf], {"test_loss": None, "accuracy": None}
    median = float(np.median(sizes)) if sizes else None
    return {"samples": seen, "losses": rounded(losses), "loss": _short(losses[-1]), "batch": median, **result}


def notations_apart(problem: TrainingProblem, subject: Subject, rate: float, size: int, steps: int, seed: int) -> float:
    """Largest relative difference of the loss between torch's momentum and the average started at zero, rate/(1 - β).

    In double precision, over the first steps.
    """
    import torch

    makers: list[tuple[Callable[[nn.Module, float], Optimizer], float]] = [
        (lambda model, r: torch.optim.SGD(model.parameters(), lr=r, momentum=BETA), rate),
        (zero_begun, rate / (1 - BETA)),
    ]
    curves = []
    for make, scaled in makers:
        model = subject.network(seed).double()
        x = problem.x.double() if problem.x.is_floating_point() else problem.x
        y = problem.y.double() if problem.y.is_floating_point() else problem.y
        made_steps = plain_steps(model, problem.loss, x, y, size, make(model, scaled), seed)
        curves.append([step.loss for step in islice(made_steps, min(steps, SAME_STEPS))])
    one, other = np.array(curves)
    return float(np.max(np.abs(one - other) / np.abs(one)))


def _marks(steps: int) -> set[int]:
    return set(np.linspace(0, steps, min(LOOKS, steps) + 1)[1:].round().astype(int).tolist())


def _turn(optimizer: "Optimizer", way: str) -> None:
    """Schedule-free optimizers hold the average in the parameters in between."""
    if hasattr(optimizer, way):
        getattr(optimizer, way)()


def _refresh(optimizer: "Optimizer", model: "nn.Module", problem: TrainingProblem) -> None:
    from ...fitting.evaluation import refresh_batch_norm

    if hasattr(optimizer, "eval"):
        refresh_batch_norm(model, problem.source, problem.x.device)


def _short(value: float) -> float | None:
    return rounded([value])[0] if math.isfinite(value) else None
