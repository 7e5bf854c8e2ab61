"""Where a model fits its data exactly: what a batch is worth below and above the critical size."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...errors import InputError
from ...ranges import require_number, require_whole
from ..experiment import Drawing, Experiment, Result, Section, StudyTrial
from ..retuning import retune
from ..subject import Subject
from .claims import INTERPOLATION, findings, rows
from .figure import draw_regimes
from .network import fit_network, is_linear, some_samples
from .problems import (
    FULL,
    Features,
    best_rate,
    gone_at_least,
    kernel_features,
    one_step,
    principal_features,
    spread_features,
    steps_until,
)
from .results import Regimes


@dataclass(frozen=True)
class InterpolationRegimes(Experiment):
    """Steps to a fixed accuracy against the batch size, of least squares, of a kernel and of a network.

    The linear problems have a solution that fits every sample, and are followed by their distance from it; batches
    are drawn independently, as the theory has them. At every size the rate is walked downhill from η*(m), by factors
    of √2. The network is trained by plain SGD in epochs, its rate walked by factors of 2.

    Args:
        sizes: batch sizes of the linear problems; 0 is gradient descent on all data.
        spectra: (dimensions, decay) of least squares on made-up features, whose j-th variance is j^-decay.
        samples: of least squares.
        kernel_samples: the sizes of data on which the kernel is studied, rising.
        width: of the Laplace kernel, in median distances between samples.
        accuracy: the share of ‖w - w*‖² at which a run of a linear problem has arrived.
        replicas: runs simulated at once, whose mean is followed.
        draws: batches over which the effect of one step is averaged.
        most_steps: after which a run is given up.
        network_sizes: batch sizes of the network.
        network_samples: that it is to fit.
        network_accuracy: the share of its first loss at which it has arrived.
        rate: at which the walk begins for batch 1 of the network; for others it grows with the root of the size.
        seeds: of features, batches, samples and initial parameters.

    Reference: S. Ma, R. Bassily, M. Belkin, "The Power of Interpolation" (ICML 2018; arXiv 1712.06559).
    """

    sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, FULL)
    spectra: tuple[tuple[int, float], ...] = ((100, 0.5), (30, 1.0))
    samples: int = 1000
    kernel_samples: tuple[int, ...] = (50, 100, 200, 400)
    width: float = 0.5
    accuracy: float = 1e-3
    replicas: int = 32
    draws: int = 2000
    most_steps: int = 50_000
    network_sizes: tuple[int, ...] = (1, 4, 16, 64, 256, FULL)
    network_samples: int = 1000
    network_accuracy: float = 0.05
    rate: float = 0.05
    seeds: int = 5

    name: ClassVar[str] = "interpolation"
    title: ClassVar[str] = "Interpolation: where a larger batch stops being worth it"
    question: ClassVar[str] = (
        "If a model can fit its data exactly, a step with m samples should be worth m steps up to a critical size, and "
        "hardly more beyond. Is the critical size where theory predicts it, and do networks have one?"
    )
    source: ClassVar[str] = INTERPOLATION

    @property
    def classic(self) -> Subject:
        """The digits, in a kernel and in a network of two hidden layers."""
        return Subject("digits", "mlp")

    def trials(self, subject: Subject) -> list[StudyTrial]:
        """One for each problem, size and seed: all problems and sizes with the first seed first.

        Raises:
            InputError: a setting is out of its range, or the data are too few.
        """
        self._require()
        train, _ = subject.sources()
        problems: list[tuple[str, int]] = [(_spread(*each), self.samples) for each in self.spectra]
        if self.kernel_samples and train.x_dtype.is_floating_point:
            if max(self.kernel_samples) > len(train):
                raise InputError(
                    f"InterpolationRegimes.kernel_samples go up to {max(self.kernel_samples):,}, but there are "
                    f"{len(train):,} samples: give fewer."
                )
            problems += [("kernel", n) for n in self.kernel_samples]
        linear = is_linear(subject.network(0))
        if linear and train.x_dtype.is_floating_point:
            problems.append(("features", min(self.samples, len(train))))
        for name, n in {name: n for name, n in reversed(problems)}.items():
            self._features(subject, name, n, 0)  # refuses data with nothing to fit
        cells = [(name, n, size) for name, n in problems for size in self.sizes]
        if not linear:
            n = min(self.network_samples, len(train))
            cells += [("network", n, size) for size in self.network_sizes if size < n]
        return [
            StudyTrial(
                f"{name}, {n} samples, batch {size or 'all'}, seed {seed}",
                {"problem": name, "samples": n, "size": size, "seed": seed},
            )
            for seed in range(self.seeds)
            for name, n, size in cells
        ]

    def run(self, subject: Subject, trial: StudyTrial) -> Result:
        """Walk the rate, and count steps."""
        name, n, size, seed = (trial.settings[key] for key in ("problem", "samples", "size", "seed"))
        if name == "network":
            begin = {"rate": self.rate * math.sqrt(size or n), "accuracy": self.network_accuracy}
            found = fit_network(subject, n, size or n, seed, **begin, most_steps=self.most_steps)
        else:
            found = self._linear(subject, name, n, size, seed)
        return {**trial.settings, **{key: _plain(value) for key, value in found.items()}}

    def section(self, subject: Subject, results: Mapping[str, Result]) -> Section:
        """Speed-up against size, m* predicted and measured, and what the size of the data has to do with it."""
        regimes = Regimes(results.values())
        names = {name for name, _ in regimes.problems()}
        paragraphs = [
            f"Least squares on {self.samples:,} made-up features of norm 1 whose variances fall as j^-decay, and a "
            f"Laplace kernel of width {self.width:g} median distances on samples of {subject.data}: weights that fit "
            "every sample exist in both. Batches are drawn independently; "
            f"{self.replicas} runs go side by side until their mean ‖w - w*‖² has fallen to {self.accuracy:g} of its "
            "start. The rate was walked by factors of √2 from η*(m) until both neighbours took longer. Intervals hold "
            "90 %, over seeds.",
            "m* is measured twice. For one step and the worst error: the effect of batches really drawn gives the best "
            "rate at each size, and m over it follows two straight lines, which cross at m*. For whole runs: the curve "
            "of the theory, with m* free, is fitted to the steps. The theory bounds one step; in a run errors do not "
            "stay the worst, so that it takes fewer steps than bounded and bends earlier.",
        ]
        if "features" in names:
            paragraphs.append(
                f"The features of {subject.data} are cut to the principal directions with at least a hundredth of the "
                "greatest curvature, every sample scaled to norm 1, and the targets such as fit."
            )
        if "network" in names:
            paragraphs.append(
                f"The network is {subject.model} on {self.network_samples:,} samples of {subject.data}, plain SGD in "
                f"epochs until the training loss is {self.network_accuracy:g} of its first, the rate walked by factors "
                "of 2 for each size and seed."
            )
            if not regimes.network_arrives():
                paragraphs.append(
                    "It did not arrive at every size within the steps allowed: where it cannot fit its samples it "
                    "shows nothing of interpolation."
                )
        head = ("problem", "samples", "runs", "m* predicted", "m* of one step", "m* of whole runs")
        drawing = Drawing(
            "interpolation",
            draw_regimes(regimes),
            "Speed-up over batch 1 in steps, dots measured and lines in theory, with m* as a bar; m* measured against "
            "predicted; m* and what batch 1 saves against gradient descent, over the size of the data; the network",
        )
        return Section(
            paragraphs,
            [drawing],
            (*head, "steps at η* over best", "samples of GD over those of batch 1"),
            rows(regimes),
            findings(regimes),
        )

    def _require(self) -> None:
        for name in ("samples", "replicas", "most_steps", "seeds"):
            require_whole(f"InterpolationRegimes.{name}", getattr(self, name), least=1)
        require_whole("InterpolationRegimes.draws", self.draws, least=2)
        require_whole("InterpolationRegimes.network_samples", self.network_samples, least=2)
        for name in ("width", "rate"):
            require_number(f"InterpolationRegimes.{name}", getattr(self, name), above=0)
        for name in ("accuracy", "network_accuracy"):
            require_number(f"InterpolationRegimes.{name}", getattr(self, name), above=0, most=0.5)
        for size in (*self.sizes, *self.network_sizes):
            require_whole("A batch size of InterpolationRegimes", size, least=0)
        for n in self.kernel_samples:
            require_whole("InterpolationRegimes.kernel_samples", n, least=3)
        for dimensions, decay in self.spectra:
            require_whole("The dimensions of InterpolationRegimes.spectra", dimensions, least=2)
            require_number("The decay of InterpolationRegimes.spectra", decay, least=0)

    def _features(self, subject: Subject, name: str, n: int, seed: int) -> Features:
        spreads = {_spread(*each): each for each in self.spectra}
        if name in spreads:
            return spread_features(n, *spreads[name], seed)
        x = some_samples(subject, n, seed)[0].flatten(1).double().numpy()
        return kernel_features(x, self.width) if name == "kernel" else principal_features(x)

    def _linear(self, subject: Subject, name: str, n: int, size: int, seed: int) -> Result:
        from ...probing import feature_spectrum

        x = self._features(subject, name, n, seed)
        spectrum = feature_spectrum(x)
        rate = best_rate(spectrum, size)
        gone, step_rate = one_step(x, size, rate, self.draws, seed)

        def cost(at: float, limit: float) -> float:
            return steps_until(x, size, at, self.accuracy, min(limit, self.most_steps), self.replicas, seed)

        walked = retune(cost, rate, factor=math.sqrt(2))
        return {
            "critical": spectrum.critical_samples,
            "rate": rate,
            "bound": gone_at_least(spectrum, size, rate),
            "gone": gone,
            "step_rate": step_rate,
            "steps_at_rate": walked.tried[rate],
            "best_rate": walked.rate,
            "steps": walked.cost,
        }


def _spread(dimensions: int, decay: float) -> str:
    return f"{dimensions} features, decay {decay:g}"


def _plain(value: object) -> object:
    """Five digits; None for what is not finite."""
    if isinstance(value, float | np.floating):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value
