"""Whether the batch size that `probe` advises is the one that brute force finds fastest."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from statistics import median
from typing import TYPE_CHECKING, ClassVar

from ...errors import InputError
from ...ranges import require_choice, require_number, require_whole
from ..experiment import Drawing, Experiment, Result, Section, StudyTrial
from ..reaching import MOMENTUM, OPTIMIZERS, reference_target, tuned_reach
from ..subject import Subject
from .claims import findings, row
from .pair import pair_regret

if TYPE_CHECKING:
    from torch import nn

HERE = "rightbatch.studies.probe_regret.design"
WIDE_UNITS = 1024
TIMING_RATE = 1e-6


@dataclass(frozen=True)
class ProbeRegret(Experiment):
    """Find the time to a common held-out loss at every batch size by brute force, and hold `probe`'s advice against it.

    The time of a size is its steps to the target, at the learning rate that needs the fewest, times the seconds of a
    step. Steps of all sizes and of the size advised are timed in turns within one trial.

        regret = T(B*) / min_b T(b),     T(b) = S(b)·t(b),     b among the sizes tried and B*

    | symbol | meaning |
    |---|---|
    | B* | `probe(...).batch_size`, of the initial parameters of the seed |
    | S(b) | steps to the target, the geometric mean over seeds; between two sizes interpolated on logarithms |
    | t(b) | seconds of a step, the geometric mean over seeds of medians |

    Args:
        pairs: data and model of each problem, when run on the classic subject; another subject is the only pair.
        sizes: batch sizes, ascending; those above the number of samples are omitted.
        seeds: of initial parameters and order.
        optimizer: of the brute force: "SGD", "momentum" or "Adam".
        slack: the share of the way to the reference run's held-out loss that is let off; less is harder.
        seconds: that the probe may take.
        timing_s: seconds to time steps for, in each trial that does.
        tries: learning rates at most, by factors of two.
    """

    pairs: tuple[tuple[str, str], ...] = (
        ("digits", "mlp"),
        ("digits", "linear"),
        ("blobs", "mlp"),
        ("quadratic", f"{HERE}:quadratic_model"),
        ("digits", f"{HERE}:wide_model"),
        ("digits", "cnn"),
    )
    sizes: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256, 512)
    seeds: int = 3
    optimizer: str = "momentum"
    slack: float = 0.02
    seconds: float = 3.0
    timing_s: float = 1.5
    tries: int = 8

    name: ClassVar[str] = "probe"
    title: ClassVar[str] = "Is the probe right?"
    question: ClassVar[str] = (
        "How much longer does training take with the batch size that the probe recommends than with the fastest of all "
        "batch sizes?"
    )
    source: ClassVar[str] = "this library"

    @property
    def classic(self) -> Subject:
        """The first of the pairs, which stands for all of them."""
        data, model = self.pairs[0] if self.pairs else ("digits", "mlp")
        return Subject(data, model)

    def subjects(self, subject: Subject) -> list[Subject]:
        """The problems that a study of this subject consists of."""
        return [Subject(*pair) for pair in self.pairs] if subject == self.classic else [subject]

    def trials(self, subject: Subject) -> list[StudyTrial]:
        """For every pair the probe and one brute-force trial a size; all pairs with the first seed first.

        Raises:
            InputError: a setting is out of its range, or a pair has too few samples.
        """
        for name in ("seeds", "tries"):
            require_whole(f"ProbeRegret.{name}", getattr(self, name), least=1)
        for name in ("seconds", "timing_s"):
            require_number(f"ProbeRegret.{name}", getattr(self, name), above=0)
        require_number("ProbeRegret.slack", self.slack, above=0, most=0.5)
        require_choice("ProbeRegret.optimizer", self.optimizer, OPTIMIZERS)
        for size in self.sizes:
            require_whole("ProbeRegret.sizes", size, least=1)
        if not self.pairs or list(self.sizes) != sorted(set(self.sizes)):
            raise InputError(f"ProbeRegret has the pairs {self.pairs} and sizes {self.sizes}: give some, sizes rising.")
        trials = []
        for seed in range(self.seeds):
            for pair in self.subjects(subject):
                about = {"data": pair.data, "model": pair.model, "target": pair.target, "seed": seed}
                trials.append(StudyTrial(f"{label(pair)}, probe, seed {seed}", {**about, "size": 0}))
                trials += [
                    StudyTrial(f"{label(pair)}, batch {size}, seed {seed}", {**about, "size": size})
                    for size in self._sizes(pair)
                ]
        return trials

    def run(self, subject: Subject, trial: StudyTrial) -> Result:
        """Steps to the target at one size; or, for size 0, the probe's advice and the seconds of steps."""
        data, model, column, seed, size = (trial.settings[key] for key in ("data", "model", "target", "seed", "size"))
        pair = Subject(data, model, column)
        about = {"pair": label(pair), "seed": seed, "size": size}
        return {**about, **(self._brute_force(pair, seed, size) if size else self._advice(pair, seed))}

    def _brute_force(self, pair: Subject, seed: int, size: int) -> Result:
        target = reference_target(pair, self.optimizer, slack=self.slack)
        run, tuned = tuned_reach(pair, size, seed, target, target.allowed(size), tries=self.tries)
        reached = math.isfinite(run.steps)
        return {
            "loss": target.loss,
            "steps": float(f"{run.steps:.5g}") if reached else None,
            "rate": float(f"{tuned.rate:.5g}") if reached else None,
            "tried": len(tuned.tried),
            "enclosed": tuned.enclosed,
        }

    def _advice(self, pair: Subject, seed: int) -> Result:
        import torch

        from ...probing import probe
        from ..step_times import step_times

        train, _ = pair.sources()
        advice = probe(pair.network(seed), train, seconds=self.seconds, seed=seed)

        def made(model: "nn.Module") -> torch.optim.Optimizer:
            if self.optimizer == "Adam":
                return torch.optim.Adam(model.parameters(), lr=TIMING_RATE)
            momentum = MOMENTUM if self.optimizer == "momentum" else 0.0
            return torch.optim.SGD(model.parameters(), lr=TIMING_RATE, momentum=momentum)

        sizes = sorted({*self._sizes(pair), advice.batch_size})
        times = step_times(pair, sizes, made, self.timing_s)
        along = advice.training_noise_scale
        return {
            "advised": advice.batch_size,
            "low": advice.low,
            "high": advice.high,
            "noise_scale": float(f"{advice.noise_scale:.5g}") if math.isfinite(advice.noise_scale) else None,
            "training_noise_scale": None if along is None else float(f"{along:.5g}"),
            "half_performance": float(f"{advice.half_performance:.5g}"),
            "took_s": round(advice.seconds_used, 3),
            "step_s": {str(b): float(f"{t:.5g}") for b, t in zip(sizes, times, strict=True)},
        }

    def section(self, subject: Subject, results: Mapping[str, Result]) -> Section:
        """Regret of every pair, and whether the aim is met."""
        from .figure import draw_regrets

        pairs = [label(pair) for pair in self.subjects(subject)]
        found = [pair_regret(name, [r for r in results.values() if r["pair"] == name]) for name in pairs]
        known = [regret for regret in found if regret is not None]
        paragraphs = [
            f"The probe was given the initial parameters and {self.seconds:g} seconds. By brute force each batch size "
            f"of {', '.join(f'{b:,}' for b in self.sizes)} was trained to a held-out loss that the pair's sizes share, "
            f"with {self.optimizer}, at a constant learning rate tuned for the size and seed by factors of two: "
            f"{self.seeds} seeds, a time being steps to the target times the seconds of a step, which were "
            "timed for all sizes in turns.",
            "The regret is the time with the batch size advised over the least time of all sizes, of the means over "
            "seeds, in brackets its 90 % interval over seeds. The least of several noisy times is a little too small, "
            "so that this overstates the regret, and it is what counts. The smoothed regret takes the steps from "
            "S_min·(1 + B_crit/b), fitted to all sizes and seeds, and is free of that luck, but believes the formula. "
            "Beside B_crit stand the noise scales that the probe saw at the initial parameters and along its training.",
        ]
        if known:
            worst = max(known, key=lambda regret: regret.raw)
            raw, smooth = [r.raw for r in known], [r.smooth for r in known]
            paragraphs.append(
                f"Over {len(known)} pairs the median regret is {median(raw):.2f}, smoothed {median(smooth):.2f}; the "
                f"worst is {worst.raw:.2f}, of {worst.pair}, smoothed {max(smooth):.2f}."
            )
        rows = [row(regret) for regret in known]
        drawings = []
        if known:
            says = (
                "Time to the target against batch size, a panel for each pair: dots are seeds, the line their mean, "
                "dashed the fitted law; the vertical lines are the sizes that the probe advised"
            )
            drawings.append(Drawing("probe_regret", draw_regrets(known), says))
        head = ("data and model", "seeds", "fastest", "advised", "regret", "smoothed", "noise scale", "along", "B_crit")
        return Section(paragraphs, drawings, head, rows, findings(known))

    def _sizes(self, pair: Subject) -> list[int]:
        n = len(pair.sources()[0])
        sizes = [size for size in self.sizes if size <= n]
        if len(sizes) < 3:
            raise InputError(
                f"{pair} has {n} samples, so that of ProbeRegret.sizes {self.sizes} only {sizes} can be tried: give "
                "three or more that are not larger."
            )
        return sizes


def label(pair: Subject) -> str:
    """Model and data in two words."""
    model = pair.model.rpartition(":")[2].removesuffix("_model")
    data = pair.data.rstrip("/").rpartition("/")[2].partition(".")[0]
    return f"{model} on {data}"


def quadratic_model() -> "nn.Module":
    """The model of the built-in quadratic, whose gradient noise is known in closed form."""
    from ...data import quadratic

    return quadratic().model()


def wide_model(x_shape: tuple[int, ...], outputs: int) -> "nn.Module":
    """One hidden layer of 1,024 ReLU units: on small data, many more parameters than samples."""
    from torch import nn

    return nn.Sequential(nn.Flatten(), nn.Linear(prod(x_shape), WIDE_UNITS), nn.ReLU(), nn.Linear(WIDE_UNITS, outputs))
