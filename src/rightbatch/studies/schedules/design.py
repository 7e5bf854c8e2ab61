"""Growing the batch where a schedule would decay the rate, at equal epochs: AdaBatch, increase-not-decay, Seesaw."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ...errors import InputError
from ...ranges import require_number, require_whole
from ..experiment import Drawing, Experiment, Result, Section, Trial
from ..over_seeds import told, told_factor
from ..subject import Subject
from .arms import FAMILIES, Arm, arms_of, train
from .claims import findings
from .figure import draw_schedules

if TYPE_CHECKING:
    from ...data import Source

HELD_OUT = 0.15  # of the training data, while rates are tuned
TIMED_SIZES = 6  # between which the seconds of a step are interpolated


@dataclass(frozen=True)
class Schedules(Experiment):
    """Train by each schedule for the same epochs; the rate is tuned for the fixed batch that decays, and used for all.

    Args:
        epochs: of every run.
        seeds: of initial parameters, order and held-out part.
        size: the fixed batch, from which the others grow.
        momentum: of SGD; Seesaw, whose theory is of normalised steps, runs over Adam.
        rates: from which the walks begin: SGD's and Adam's.
        cut: what Seesaw takes off the rate at a time, of which its batch takes the root.
        tries: runs at most to tune a rate.
        looks: how often the test data are evaluated.
        time_s: seconds on the wall to measure the times of a step, in each trial.
        most_samples: to train on; None takes all.

    Reference: A. Devarakonda, M. Naumov, M. Garland, "AdaBatch" (2017); S. L. Smith et al., "Don't Decay the Learning
    Rate, Increase the Batch Size" (2018); A. Meterez et al., "Seesaw" (2025). Stages stand at the same shares of the
    run as in the first two, 100 and 200 epochs long.
    """

    epochs: int = 10
    seeds: int = 5
    size: int = 16
    momentum: float = 0.9
    rates: tuple[float, float] = (0.05, 0.002)
    cut: float = 1.1
    tries: int = 6
    looks: int = 20
    time_s: float = 1.0
    most_samples: int | None = None

    name: ClassVar[str] = "schedules"
    title: ClassVar[str] = "Schedules"
    question: ClassVar[str] = (
        "Where a schedule would lower the learning rate, does a larger batch do as well, in fewer steps and less time?"
    )
    source: ClassVar[str] = (
        "AdaBatch (2017), “Don't decay the learning rate, increase the batch size” (2018), Seesaw (2025)"
    )

    @property
    def classic(self) -> Subject:
        """The digits, with two hidden layers."""
        return Subject("digits", "mlp")

    def trials(self, subject: Subject) -> list[Trial]:
        """One for each family of schedules and seed, all families with the first seed first.

        Raises:
            InputError: a setting is out of its range, or the targets are no classes.
        """
        from ...fitting.losses import default_loss, require_fitting

        for name in ("epochs", "seeds", "size", "tries"):
            require_whole(f"Schedules.{name}", getattr(self, name), least=1)
        require_whole("Schedules.looks", self.looks, least=2)
        require_number("Schedules.momentum", self.momentum, least=0, most=0.999)
        require_number("Schedules.cut", self.cut, above=1)
        require_number("Schedules.time_s", self.time_s, above=0)
        if len(self.rates) != 2:
            raise InputError(f"Schedules.rates are {self.rates}: give two, SGD's and Adam's.")
        for rate in self.rates:
            require_number("Schedules.rates", rate, above=0)
        if self.most_samples is not None:
            require_whole("Schedules.most_samples", self.most_samples, least=2)
        data = self._train(subject)
        if data.y_dtype.is_floating_point or data.y_shape:
            raise InputError(f"The targets of {subject.data} are no classes: accuracies need one class a sample.")
        if 10 * self.size > len(data):
            raise InputError(
                f"Schedules.size is {self.size}, too large to grow to a tenth of {len(data):,} samples: give at most "
                f"{len(data) // 10}."
            )
        require_fitting(subject.network(seed=0), default_loss(data), data)
        return [
            Trial(f"{family}, seed {seed}", {"family": family, "seed": seed})
            for seed in range(self.seeds)
            for family in FAMILIES
        ]

    def run(self, subject: Subject, trial: Trial) -> Result:
        """Tune the rate of the fixed batch on a held-out part, then train by every schedule of the family."""
        from ...data import hold_out
        from ..retuning import retune

        family, seed = str(trial.settings["family"]), int(trial.settings["seed"])
        data, test = self._train(subject), subject.sources()[1]
        part, valid = hold_out(data, HELD_OUT, seed)
        arms = arms_of(family, self.size, self.epochs, self.momentum, self.cut, len(data))

        def cost(rate: float, _: float) -> float:
            run = train(arms[0], subject.network(seed), part, valid, rate, self.epochs, seed, looks=1)
            return run.losses[-1] if run.whole else math.inf

        tuned = retune(cost, self.rates[family == "Seesaw"], tries=self.tries)
        facts = {"rate": tuned.rate, "enclosed": tuned.enclosed, "samples": len(data)}
        if not math.isfinite(tuned.rate):
            return {**trial.settings, **facts, "arms": {}}
        runs = {
            arm.name: train(arm, subject.network(seed), data, test, tuned.rate, self.epochs, seed, self.looks)
            for arm in arms
        }
        sizes = [b for run in runs.values() for b in run.steps_by_size]
        seconds = self._seconds(subject, arms[0], max(sizes))
        kept = {
            name: {**run.plain(), "seconds": sum(n * seconds(b) for b, n in run.steps_by_size.items())}
            for name, run in runs.items()
        }
        return {**trial.settings, **facts, "arms": kept}

    def section(self, subject: Subject, results: Mapping[str, Result]) -> Section:
        """Accuracy, steps and seconds of every schedule, beside the fixed batch of its family."""
        rows = []
        for family in FAMILIES:
            runs = [r["arms"] for r in results.values() if r["family"] == family and r["arms"]]
            names = list(dict.fromkeys(name for arms in runs for name in arms))
            for name in names:
                found = [arms[name] for arms in runs if name in arms and arms[name]["whole"]]
                pairs = [(arms[name], arms[names[0]]) for arms in runs if name in arms and _both(arms, name, names[0])]
                rows.append(_row(name, found, [] if name == names[0] else pairs))
        first = min(r["seed"] for r in results.values())
        tuned = [f"{r['rate']:.3g} ({r['family']})" for r in results.values() if r["seed"] == first]
        samples = max(r["samples"] for r in results.values())
        paragraphs = [
            f"{samples:,} samples, {self.epochs} epochs a run. AdaBatch and increase-not-decay over SGD with "
            f"momentum {self.momentum:g}, Seesaw over Adam. The rate is tuned once a seed, for the fixed batch of "
            f"{self.size} whose rate decays, by a walk with factor 2 to the least loss on {100 * HELD_OUT:g} % of the "
            "training data, and used for every schedule of the family; of the first seed it is "
            f"{', '.join(tuned)}. Then all runs are made on all of the training data. Intervals hold 90 %, over "
            "seeds; differences and ratios are taken seed by seed.",
            "Seconds are the steps of every size times the median time of such a step in a plain loop on one thread, "
            "measured in turns; what several devices would save on large batches is not in them.",
            *_seen(results),
        ]
        drawing = Drawing(
            "schedules",
            draw_schedules(results, self.epochs),
            "A row for each family, the first seed: batch size and learning rate over the epochs, then test accuracy "
            "over epochs and over steps. Dashed: the fixed batch whose rate decays",
        )
        head = ("schedule", "runs", "test accuracy, %", "difference, points", "test loss", "steps", "of the fixed")
        return Section(paragraphs, [drawing], (*head, "times as fast"), rows, findings(results, self.cut))

    def _train(self, subject: Subject) -> "Source":
        from ...data import hold_out

        data = subject.sources()[0]
        if self.most_samples is None or self.most_samples >= len(data):
            return data
        return hold_out(data, self.most_samples / len(data), seed=0)[1]

    def _seconds(self, subject: Subject, arm: Arm, largest: int) -> "_StepSeconds":
        from ..step_times import step_times

        sizes = np.unique(np.geomspace(self.size, max(largest, self.size), TIMED_SIZES).round().astype(int)).tolist()
        return _StepSeconds(sizes, step_times(subject, sizes, lambda model: arm.optimizer(model, 1e-9), self.time_s))


@dataclass(frozen=True)
class _StepSeconds:
    """Seconds of a step by its size, interpolated between those measured."""

    sizes: list[int]
    seconds: list[float]

    def __call__(self, size: int) -> float:
        return float(np.interp(size, self.sizes, self.seconds))


def _both(arms: Mapping[str, Result], name: str, control: str) -> bool:
    return control in arms and bool(arms[name]["whole"] and arms[control]["whole"])


def _seen(results: Mapping[str, Result]) -> list[str]:
    """Why the time falls less than the steps."""
    told_of = []
    for family in FAMILIES:
        runs = [r["arms"] for r in results.values() if r["family"] == family and r["arms"]]
        for name in dict.fromkeys(name for arms in runs for name in list(arms)[1:]):
            pairs = [(arms[name], next(iter(arms.values()))) for arms in runs if name in arms]
            longer = [a["seconds"] / a["steps"] / (b["seconds"] / b["steps"]) for a, b in pairs if a["whole"]]
            if longer:
                told_of.append(f"{float(np.median(longer)):.1f} times for {name}")
    if not told_of:
        return []
    return [
        "Until its batch first grows a run is that of the fixed batch, step for step, but for the larger first rates. "
        f"On one core the time falls less than the steps do, as a mean step takes longer: {', '.join(told_of)}."
    ]


def _row(name: str, runs: list[Result], pairs: list[tuple[Result, Result]]) -> list[str]:
    if not runs:
        return [name, "0", "diverged", "", "", "", "", ""]
    return [
        name,
        f"{len(runs)}",
        told([100 * r["accuracy"][-1] for r in runs], 2),
        told([100 * (a["accuracy"][-1] - b["accuracy"][-1]) for a, b in pairs], 2) if pairs else "",
        told([r["loss"][-1] for r in runs]),
        f"{round(float(np.mean([r['steps'] for r in runs]))):,}",
        f"{float(np.mean([a['steps'] / b['steps'] for a, b in pairs])):.3f}" if pairs else "",
        told_factor([b["seconds"] / a["seconds"] for a, b in pairs]) if pairs else "",
    ]
