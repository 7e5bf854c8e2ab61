"""Removing the noise of on-line least mean squares: a smaller step against a larger batch."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..errors import InputError
from ..ranges import require_number, require_whole
from .experiment import Drawing, Experiment, Finding, Result, Section, StudyTrial, Verdict, rounded
from .over_seeds import mean_interval, show
from .subject import Subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ORR = "G. B. Orr, Removing Noise in On-Line Search using Adaptive Batch Sizes (NIPS 9, 1997)"
TOLERANCE = 0.05  # of a slope: what a finite run leaves of its beginning
MARKS = 60  # at most, where the error is taken


@dataclass(frozen=True)
class NoiseRemoval(Experiment):
    """Least mean squares in one dimension: anneal the step, grow the batch, or do neither.

    With y = ω*x + ε, x standard normal, Var ε = σ², v = ω - ω*, a batch of b and a step μ, q the mean of b squares x²,

        v ← (1 - μq)·v + μσ·(q/b)^½·z,   z standard normal,   b·q of a χ² distribution with b degrees of freedom
        E v² ← ((1 - μ)² + 2μ²/b)·E v² + μ²σ²/b

    The first line is the step itself, not an approximation of it, at a cost that does not depend on b.

    Args:
        rate: μ at the start.
        distance: v at the start, in units of σ.
        presentations: samples each run consumes.
        fixed: the batch that stays where it is, beside a batch of 1.
        replicas: runs in one trial, over which v² is averaged.
        seeds: trials of each schedule.
    """

    rate: float = 0.1
    distance: float = 1.0
    presentations: int = 20_000
    fixed: int = 32
    replicas: int = 1000
    seeds: int = 8

    name: ClassVar[str] = "noise-removal"
    title: ClassVar[str] = "Removing the noise: smaller steps or larger batches"
    question: ClassVar[str] = (
        "With a constant learning rate and batch size the loss ends at a noise floor. Does growing the batch remove it "
        "as well as annealing the learning rate, and at what cost in samples and steps?"
    )
    source: ClassVar[str] = ORR

    @property
    def classic(self) -> Subject:
        """Least mean squares in one dimension; there is no other subject."""
        return Subject("least-mean-squares", "one-weight")

    def trials(self, subject: Subject) -> list[StudyTrial]:
        """One trial for each schedule and seed, all schedules with the first seed first."""
        if subject != self.classic:
            raise InputError(f"{self.name} simulates least mean squares and takes no data or model: do not pass them.")
        for name in ("presentations", "fixed", "replicas", "seeds"):
            require_whole(f"NoiseRemoval.{name}", getattr(self, name), least=1)
        require_number("NoiseRemoval.rate", self.rate, above=0, most=0.5)
        require_number("NoiseRemoval.distance", self.distance, above=0)
        return [
            StudyTrial(f"{name}, seed {seed}", {"schedule": name, "seed": seed})
            for seed in range(self.seeds)
            for name in self._schedules
        ]

    def run(self, subject: Subject, trial: StudyTrial) -> Result:
        """Simulate all replicas at once; the mean of v²/σ² at marks evenly spaced in the logarithm."""
        number = list(self._schedules).index(trial.settings["schedule"])
        random = np.random.default_rng([int(trial.settings["seed"]), number])
        steps = self._steps(str(trial.settings["schedule"]))
        kept = _marks(steps)
        v = np.full(self.replicas, self.distance)
        seen, errors = [], []
        for step, (rate, b, presented) in enumerate(steps):
            q = random.chisquare(b, self.replicas) / b
            v = (1 - rate * q) * v + rate * np.sqrt(q / b) * random.standard_normal(self.replicas)
            if step in kept:
                seen.append(presented)
                errors.append(float(np.mean(v * v)))
        return {
            "schedule": trial.settings["schedule"],
            "steps": len(steps),
            "presented": seen,
            "error": rounded(errors),
        }

    def theory(self, schedule: str) -> tuple[list[int], list[float]]:
        """Presentations and E v²/σ² after every step, by the recursion."""
        steps, error, errors = self._steps(schedule), self.distance**2, []
        for rate, b, _ in steps:
            error = ((1 - rate) ** 2 + 2 * rate**2 / b) * error + rate**2 / b
            errors.append(error)
        return [presented for _, _, presented in steps], errors

    def section(self, subject: Subject, results: Mapping[str, Result]) -> Section:
        """The error against presentations, and how it falls at the end."""
        runs: dict[str, list[Result]] = {}
        for result in results.values():
            runs.setdefault(str(result["schedule"]), []).append(result)
        runs = {name: runs[name] for name in self._schedules if name in runs}
        rows, findings = [], []
        for name, found in runs.items():
            slopes = [_slope(run["presented"], run["error"]) for run in found]
            presented, expected = self.theory(name)
            products = [run["error"][-1] * run["presented"][-1] for run in found]
            ends = [run["error"][-1] / expected[-1] for run in found]
            rows.append(
                (
                    name,
                    f"{len(found) * self.replicas:,}",
                    f"{found[0]['steps']:,}",
                    show(slopes),
                    f"{_slope(presented, expected):.3f}",
                    show(products, digits=2),
                    show(ends),
                )
            )
            flat = name.startswith("constant")
            claim = "the error ends at a floor" if flat else "the error falls as one over the presentations"
            value = "slope 0" if flat else "O(1/T), slope -1"
            findings.append(
                Finding(
                    f"{name}: {claim}",
                    ORR,
                    value,
                    f"slope {show(slopes)}",
                    _near(slopes, 0.0 if flat else -1.0),
                )
            )
        one, large = (runs.get(f"constant, batch {b}", []) for b in (1, self.fixed))
        if one and large:
            ratios = [a["error"][-1] / b["error"][-1] for a, b in zip(one, large, strict=False)]
            a, b = (self.theory(f"constant, batch {size}")[1][-1] for size in (1, self.fixed))
            interval = mean_interval(ratios)
            verdict: Verdict = (
                "cannot tell" if interval is None else "agrees" if interval[0] <= a / b <= interval[1] else "differs"
            )
            claim = f"a batch of {self.fixed} has the floor of batch 1 divided by {a / b:.1f}"
            findings.append(Finding(claim, "the recursion of E v²", f"{a / b:.2f}", show(ratios, digits=2), verdict))
        paragraphs = [
            f"One weight, {self.presentations:,} samples a run, a first step of {self.rate:g}. Annealing: batches of "
            f"1 and a step of 1/(1/{self.rate:g} + t). Growing: a constant step, the batch 1/(1 - {self.rate:g}) times "
            "larger from step to step. Slopes are of the logarithm of the mean squared error over that of the "
            "presentations, over the last tenfold of them; intervals hold 90 % over the seeds.",
            "No unbiased estimate from T samples has a mean squared error below σ²/T, the dashed line. Error times "
            "presentations is 1 there: what a schedule shows above 1 is the samples it wastes. Growing the batch does "
            "not save samples; it saves steps, which is what parallel hardware can use.",
        ]
        head = ("schedule", "runs", "steps", "slope", "in theory", "error · presentations", "error / theory")
        drawing = Drawing(
            "noise_removal",
            self._figure(runs),
            "Mean squared error over samples and over steps: dots simulated, lines the recursion; dashed, σ²/T",
        )
        return Section(paragraphs, [drawing], head, rows, findings)

    @property
    def _schedules(self) -> dict[str, Callable[[int], tuple[float, int]]]:
        """Step size and batch at step t, by name."""
        names = {b: f"constant, batch {b}" for b in sorted({1, self.fixed})}
        constant = {name: (lambda t, b=b: (self.rate, b)) for b, name in names.items()}
        return {
            "annealed step": lambda t: (1 / (1 / self.rate + t), 1),
            "growing batch": lambda t: (self.rate, math.ceil((1 - self.rate) ** -t)),
            **constant,
        }

    def _steps(self, schedule: str) -> list[tuple[float, int, int]]:
        """(step size, batch, samples presented after it) of every step that the presentations allow."""
        steps: list[tuple[float, int, int]] = []
        presented, at = 0, self._schedules[schedule]
        while presented + (now := at(len(steps)))[1] <= self.presentations:
            presented += now[1]
            steps.append((*now, presented))
        return steps

    def _figure(self, runs: Mapping[str, list[Result]]) -> "Figure":
        from ..report.drawing import BLUE, GREEN, INK, MUTED, ORANGE, VIOLET, finish, log_axis, styled

        @styled
        def draw() -> "Figure":
            from matplotlib.figure import Figure

            figure = Figure(figsize=(10, 3.8), layout="constrained")
            left, right = figure.subplots(1, 2, sharey=True)
            colours = dict(zip(self._schedules, (VIOLET, BLUE, ORANGE, GREEN), strict=False))
            low = 0.4 / self.presentations
            for name, found in runs.items():
                presented, expected = self.theory(name)
                left.plot(presented, expected, color=colours[name])
                right.plot(range(1, len(expected) + 1), expected, color=colours[name], label=name)
                error = np.mean([run["error"] for run in found], axis=0)
                left.plot(found[0]["presented"], error, "o", color=colours[name], markersize=3)
            left.plot([1, self.presentations], [1, 1 / self.presentations], "--", color=MUTED, linewidth=1)
            left.text(2, 0.25, "σ²/T", color=INK, ha="right", va="top")
            for axes, x in ((left, "samples presented, T"), (right, "steps")):
                log_axis(axes, "x", 1, self.presentations * 1.2)
                log_axis(axes, "y", low, self.distance**2 * 1.5)
                finish(axes, x, "mean squared error in σ²" if axes is left else "")
            return figure

        return draw()


def _marks(steps: list[tuple[float, int, int]]) -> set[int]:
    """Steps evenly spaced in the logarithm of the presentations, the last among them."""
    presented = [p for _, _, p in steps]
    wanted = np.geomspace(presented[0], presented[-1], MARKS)
    return set(np.searchsorted(presented, wanted - 0.5).clip(0, len(steps) - 1).tolist()) | {len(steps) - 1}


def _slope(presented: list[int], error: list[float]) -> float:
    """How the logarithm of the error falls with that of the presentations, over the last tenfold of them."""
    x, y = np.log(presented), np.log(error)
    late = x >= x[-1] - math.log(10)
    marks = np.unique(np.searchsorted(x, np.linspace(x[late][0], x[-1], MARKS)).clip(0, len(x) - 1))
    return float(np.polyfit(x[marks], y[marks], 1)[0])


def _near(slopes: list[float], value: float) -> Verdict:
    interval = mean_interval(slopes)
    if interval is None:
        return "cannot tell"
    low, high = interval[0] - value, interval[1] - value
    if low > TOLERANCE or high < -TOLERANCE:
        return "differs"
    return "agrees" if low >= -TOLERANCE and high <= TOLERANCE else "cannot tell"
