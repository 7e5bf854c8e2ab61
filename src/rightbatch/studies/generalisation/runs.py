"""Runs that are taken only as far as somebody asks, looked at on the way, and what they are run on."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from ..plain_steps import PlainStep, plain_steps
from ..subject import Subject

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from ...fitting.units import Loss

    Part = tuple[Tensor, Tensor]

Phase = tuple[int, float, int | None]  # batch size, learning rate, steps; None is without end

CHUNK_SAMPLES = 1024  # in one pass without gradients
TIMED_STEPS = 20
DROPOUT = 0.5


@dataclass(frozen=True)
class Parts:
    """Samples to train on, to choose by, and to test on, each as inputs and targets."""

    train: "Part"
    validation: "Part"
    test: "Part"
    loss: "Loss"


@dataclass(frozen=True, slots=True)
class RunLook:
    """A run after so many steps; losses are means, accuracies shares, of the whole part."""

    step: int
    samples: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    test_loss: float
    test_accuracy: float

    def rounded(self) -> dict[str, float]:
        """To five digits, as it is kept."""
        return {name: _round(value) for name, value in asdict(self).items()}


def divide(subject: Subject, seed: int, most: int, share: float, label_noise: float) -> Parts:
    """Draw the samples of one seed; what is held out to choose by comes from the training data.

    Args:
        subject: what is given.
        seed: of the draw, the division and the noise.
        most: training samples drawn, those held out among them; and test samples, the same for every seed.
        share: held out.
        label_noise: share of the drawn labels, of both parts, replaced by another class.
    """
    import torch

    from ...fitting.losses import default_loss

    train, test = subject.sources()
    random = np.random.default_rng(seed)
    x, y = train.fetch(torch.from_numpy(random.permutation(len(train))[:most]))
    if label_noise:
        classes = train.classes or int(y.max()) + 1
        moved = random.integers(1, classes, len(y)) * (random.random(len(y)) < label_noise)
        y = (y + torch.from_numpy(moved)) % classes
    rest = trained_on(len(train), most, share)
    tested = test.fetch(torch.from_numpy(np.random.default_rng(0).permutation(len(test))[:most]))
    return Parts((x[:rest], y[:rest]), (x[rest:], y[rest:]), tested, default_loss(train))


def trained_on(samples: int, most: int, share: float) -> int:
    """Samples trained on, of so many that there are."""
    drawn = min(samples, most)
    return drawn - max(1, round(drawn * share))


def network(subject: Subject, seed: int, kind: str) -> "nn.Module":
    """The model; or the built-in `mlp` with dropout after each ReLU, or BatchNorm before it, from the same start."""
    from torch import nn

    model = subject.network(seed)
    if kind == "plain":
        return model
    layers: list[nn.Module] = []
    for layer in model.children():
        if isinstance(layer, nn.ReLU) and kind == "batch norm":
            linear = layers[-1]
            assert isinstance(linear, nn.Linear)
            layers.append(nn.BatchNorm1d(linear.out_features))
        layers.append(layer)
        if isinstance(layer, nn.ReLU) and kind == "dropout":
            layers.append(nn.Dropout(DROPOUT))
    return nn.Sequential(*layers)


@dataclass(eq=False)
class SteppedRun:
    """Training that goes on when asked to.

    Args:
        parts: the samples.
        model: trained in place.
        steps: that train it.
        size: samples in each of the first steps.
        looks: after which steps it is looked at.
        keep: after which of them the parameters are kept.
    """

    parts: Parts
    model: "nn.Module"
    steps: Iterator[int]
    looks: frozenset[int]
    keep: frozenset[int]
    made: dict[int, RunLook] = field(default_factory=dict)
    kept: "dict[int, dict[str, Tensor]]" = field(default_factory=dict)
    step: int = 0
    diverged: bool = False

    def upto(self, last: int) -> RunLook | None:
        """What it is after `last` steps, one of its looks; None where it has diverged."""
        while self.step < last and not self.diverged:
            samples = next(self.steps)
            if samples < 0:
                self.diverged = True
                break
            self.step += 1
            if self.step in self.looks:
                self._look(samples)
        return None if self.diverged and last not in self.made else self.made[last]

    def best(self, last: int) -> RunLook:
        """The look of the least validation loss up to `last`."""
        return min((look for step, look in self.made.items() if step <= last), key=lambda look: look.validation_loss)

    def _look(self, samples: int) -> None:
        train, validation, test = (
            mean_loss(self.model, self.parts.loss, part)
            for part in (self.parts.train, self.parts.validation, self.parts.test)
        )
        if not math.isfinite(train[0] + validation[0] + test[0]):
            self.diverged = True
            return
        self.made[self.step] = RunLook(self.step, samples, *train, *validation, *test)
        if self.step in self.keep:
            self.kept[self.step] = {name: value.clone() for name, value in self.model.state_dict().items()}


def phases(
    parts: Parts,
    model: "nn.Module",
    optimizer: "Optimizer",
    plan: Sequence[Phase],
    seed: int,
) -> Iterator[int]:
    """Train by a plan; yields the samples consumed after each step, -1 once the loss is not finite.

    The optimizer goes on with the momentum that it has.
    """
    consumed = 0
    for phase, (size, rate, count) in enumerate(plan):
        for group in optimizer.param_groups:
            group["lr"] = rate
        steps: Iterator[PlainStep] = plain_steps(model, parts.loss, *parts.train, size, optimizer, seed + 1000 * phase)
        for step in islice(steps, count):
            yield consumed + step.samples if math.isfinite(step.loss) else -1
        consumed += size * (count or 0)


def mean_loss(model: "nn.Module", loss: "Loss", part: "Part") -> tuple[float, float]:
    """Mean loss and accuracy as at test."""
    import torch

    total, right, (x, y) = 0.0, 0, part
    with torch.no_grad():
        model.eval()
        for inputs, targets in zip(torch.split(x, CHUNK_SAMPLES), torch.split(y, CHUNK_SAMPLES), strict=True):
            output = model(inputs)
            total += loss(output, targets).item() * len(targets)
            right += int((output.argmax(1) == targets).sum())
    return total / len(y), right / len(y)


def step_seconds(parts: Parts, models: Sequence["nn.Module"], optimizers: Any, sizes: Sequence[int]) -> list[float]:
    """Median seconds of a step of each size, the sizes timed in turns, so that what else runs slows all of them."""
    runs = [
        plain_steps(model, parts.loss, *parts.train, size, optimizer, 0)
        for model, optimizer, size in zip(models, optimizers, sizes, strict=True)
    ]
    ends = [[next(run).seconds for run in runs] for _ in range(TIMED_STEPS + 1)]  # the first warms up
    return [float(value) for value in np.median(np.diff(ends, axis=0), axis=0)]


def curve(run: SteppedRun, last: int) -> dict[str, list[float]]:
    """The looks up to `last`, as lists."""
    looks = [look.rounded() for step, look in sorted(run.made.items()) if step <= last]
    return {
        name: [look[name] for look in looks] for name in ("samples", "validation_loss", "test_loss", "test_accuracy")
    }


def outcome(run: SteppedRun, last: int, rate: float, more: Mapping[str, float]) -> dict[str, float]:
    """What a run is after `last` steps, what it was where validation was best, and `more`."""
    stopped = run.best(last)
    return {
        "rate": _round(rate),
        **run.made[last].rounded(),
        "stopped_loss": _round(stopped.test_loss),
        "stopped_accuracy": _round(stopped.test_accuracy),
        **{name: _round(value) for name, value in more.items()},
    }


def _round(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.5g}")
