"""The noise scale while a network trains: exact at chosen steps, and as the run itself estimates it."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ...errors import InputError
from ...ranges import require_number, require_whole
from ..experiment import Drawing, Experiment, Result, Section, StudyTrial, rounded
from ..over_seeds import show
from ..subject import Subject, everything
from .claims import MCCANDLISH, findings, published, told_scale
from .figure import draw_growth

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ...fitting.units import Loss
    from ...measurements import NoiseEstimate

LOOK_SAMPLES, LOOK_BATCHES, LEAST_LOOK_BATCHES = 512, 16, 8
FIRST_LOOK_STEPS = 10  # the look after that at the start
LAST_LOOK = 0.9  # of all steps: the run's own estimate needs some more, to be of those before and after it alike
SHOWN = 60  # of the run's own estimates


@dataclass(frozen=True)
class NoiseGrowth(Experiment):
    """Train by plain SGD with the noise measured; at chosen steps hold the parameters and measure fresh batches.

    At a look V̂ and ŝ are averaged over batches drawn from the training samples without replacement, by the exact
    gradients of single samples where the model has them; the noise scale is the ratio of the averages,

        B = V̂/ŝ,   V̂ unbiased for the variance of one sample's gradient, ŝ for the square of their mean.

    The run's own estimate is smoothed over about 19 measurements. The one compared with a look is the first whose
    measurements lie, on average, at the look or after it.

    Args:
        batch: samples in a step.
        rate: learning rate.
        epochs: of each run.
        looks: at the start, then evenly on the logarithm of the steps.
        every: steps from one measurement of the run to the next.
        seeds: of initial parameters, order and the batches of the looks.

    Reference: McCandlish, Kaplan, Amodei, "An empirical model of large-batch training" (2018): the noise scale of MNIST
    and its growth. At which moment the one number was read, they do not say.
    """

    batch: int = 64
    rate: float = 0.1
    epochs: int = 100
    looks: int = 12
    every: int = 4
    seeds: int = 4

    name: ClassVar[str] = "noise-growth"
    title: ClassVar[str] = "The noise scale while training"
    question: ClassVar[str] = (
        "Is the noise scale a constant of the problem, or does it grow as the loss falls, and can a run measure it?"
    )
    source: ClassVar[str] = MCCANDLISH

    @property
    def classic(self) -> Subject:
        """The digits, with two hidden layers."""
        return Subject("digits", "mlp")

    def trials(self, subject: Subject) -> list[StudyTrial]:
        """One run for each seed.

        Raises:
            InputError: a setting is out of its range, or too few samples for the looks.
        """
        for name in ("epochs", "every", "seeds"):
            require_whole(f"NoiseGrowth.{name}", getattr(self, name), least=1)
        require_whole("NoiseGrowth.looks", self.looks, least=3)
        require_number("NoiseGrowth.rate", self.rate, above=0)
        n = len(subject.sources()[0])
        if n < 4 * LEAST_LOOK_BATCHES:
            raise InputError(f"{subject.data} has {n} samples to train on: give {4 * LEAST_LOOK_BATCHES} or more.")
        require_whole("NoiseGrowth.batch", self.batch, least=2)
        if self.batch > n:
            raise InputError(f"NoiseGrowth.batch is {self.batch}, but there are {n} samples: give at most {n}.")
        return [StudyTrial(f"seed {seed}", {"seed": seed}) for seed in range(self.seeds)]

    def run(self, subject: Subject, trial: StudyTrial) -> Result:
        """Train; the looks, and the run's own estimates by the steps that they are of."""
        import torch

        from ...fitting.losses import default_loss
        from ...loop import AutoBatch

        train, _ = subject.sources()
        (x, y), loss, seed = everything(train), default_loss(train), int(trial.settings["seed"])
        model = subject.network(seed)
        optimizer = torch.optim.SGD(model.parameters(), lr=self.rate)
        noise = f"auto(every={self.every})"
        auto = AutoBatch(model, optimizer, train, self.batch, None, seed=seed, epochs=self.epochs, noise=noise)
        last = LAST_LOOK * self.epochs * len(x) / self.batch
        steps = np.geomspace(min(FIRST_LOOK_STEPS, last), last, self.looks - 1).round().astype(int).tolist()
        looks, own = [_look(model, loss, x, y, 0, seed)], []
        for inputs, targets in auto:
            auto.backward(loss(model(inputs), targets))
            if not auto.step():
                continue
            if auto.noise is not None and auto.noise.age_samples == 0:
                own.append([(auto.samples - auto.noise.mean_age_samples) / self.batch, *_scale(auto.noise)])
            if auto.steps in steps:
                looks.append(_look(model, loss, x, y, auto.steps, seed))
        for look in looks:
            look["own"] = rounded(next((found[1:] for found in own if found[0] >= look["step"]), []))
        shown = sorted(set(np.geomspace(1, len(own), SHOWN).round().astype(int).tolist())) if own else []
        return {"seed": seed, "looks": looks, "own": [rounded(own[k - 1]) for k in shown]}

    def section(self, subject: Subject, results: Mapping[str, Result]) -> Section:
        """The noise scale against steps and against the loss."""
        runs = sorted(results.values(), key=lambda run: int(run["seed"]))
        rows = []
        for step in sorted({look["step"] for run in runs for look in run["looks"]}):
            looks = [look for run in runs for look in run["looks"] if look["step"] == step]
            own = [look["own"][0] for look in looks if look["own"]]
            rows.append(
                (
                    f"{step:,}",
                    f"{len(looks)}",
                    show([look["loss"] for look in looks]),
                    f"{mean(look['variance'] for look in looks):.3g}",
                    f"{mean(look['signal'] for look in looks):.3g}",
                    told_scale([look["scale"][0] for look in looks]),
                    told_scale(own),
                )
            )
        n = len(subject.sources()[0])
        size, count = _fresh(n)
        paragraphs = [
            f"Plain SGD with a learning rate of {self.rate:g} on batches of {self.batch} of {n:,} samples, "
            f"{self.epochs} epochs. Exact: the parameters are held, and V̂ and ŝ averaged over {count} fresh batches "
            f"of {size} training samples; the loss is that of the same samples. The run's own: smoothed over the "
            f"measurements of every {self.every} steps (19 of them in the long run). Nothing is tuned; seeds differ in "
            "initial parameters and order. Ranges in the table are over seeds; intervals hold 90 %.",
            "ŝ is what the gradients of the samples have in common, V̂ what sets them apart: the noise scale grows "
            "where ŝ falls faster. One iterate differs from the next, so that a noise scale without a moment, or a "
            "loss, says little.",
        ]
        about = (
            "Left: the noise scale of the first seed against steps, its own estimate (line, with its 90 % interval) "
            "and exact (points); middle: exact, of all seeds, against the training loss; right: V̂ and ŝ against "
            "the loss"
        )
        drawings = [Drawing("noise_growth", draw_growth(runs, published(subject)), about)] if runs else []
        head = ("steps", "runs", "training loss", "V̂", "ŝ", "noise scale, exact", "the run's own")
        return Section(paragraphs, drawings, head, rows, findings(subject, runs))


def _fresh(n: int) -> tuple[int, int]:
    """Samples in a batch of a look, and batches."""
    size = min(LOOK_SAMPLES, n // LEAST_LOOK_BATCHES)
    return size, min(LOOK_BATCHES, n // size)


def _look(model: "nn.Module", loss: "Loss", x: "Tensor", y: "Tensor", step: int, seed: int) -> Result:
    """V̂, ŝ and their ratio at these parameters, and the loss of the same samples."""
    import torch

    from ...fitting.evaluation import evaluating
    from ...noise import NoiseScale
    from ...noise.measuring import measure

    size, count = _fresh(len(x))
    rows = torch.from_numpy(
        np.random.default_rng((seed, step)).permutation(len(x))[: size * count].reshape(count, size)
    )
    tracker, losses = NoiseScale(decay=1), []
    for number, part in enumerate(rows):
        tracker.update(measure(model, loss, x[part], y[part]), number)
        with evaluating(model):
            losses.append(loss(model(x[part]), y[part]).item())
    noise = tracker.estimate(count)
    assert noise is not None  # there is a measurement
    numbers = {"loss": mean(losses), "variance": noise.variance, "signal": noise.signal}
    kept = dict(zip(numbers, rounded(numbers.values()), strict=True))
    return {"step": step, **kept, "scale": rounded(_scale(noise))}


def _scale(noise: "NoiseEstimate") -> tuple[float, float, float]:
    """The noise scale and its interval."""
    return noise.noise_scale, noise.low, noise.high
