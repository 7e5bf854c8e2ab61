"""Big Batch in its three forms beside tuned SGD, decayed SGD and Adadelta, in passes over the data."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...errors import InputError
from ...ranges import require_number, require_whole
from ..experiment import Drawing, Experiment, Result, Section, StudyTrial, rounded
from ..over_seeds import show
from ..retuning import Retuned, retune
from ..subject import Subject
from .claims import DE, Cells, findings, tail
from .figure import draw_passes
from .objective import FullObjective, known_objective
from .runs import gradient_norm, steps_of

SERIES = ("passes", "steps", "sizes", "rates", "excess", "norms", "batch_norms", "train", "test")


@dataclass(frozen=True)
class BigBatches(Experiment):
    """Train to one budget of passes, every tuned method at the best of its rates; follow the whole objective.

    A pass is N gradients of one sample. A trial step of a line search, a loss without a gradient, counts as a third of
    its samples, so that a search is not had for nothing.

    Args:
        passes: over the training data, of each run.
        seeds: of initial parameters and order.
        size: batch of SGD and Adadelta, and the first of Big Batch.
        thetas: noise that Big Batch allows in its gradient, relative to it; 1 as published first.
        penalty: λ of the penalty λ/2·‖w‖², for models linear in their parameters; others have none.
        untuned: a rate that nobody tuned: that of a well-known library's SGD.
        decays: k of the rates η/(1 + k·passes), the better one taken.
        tries: runs at most to tune a rate, from 1/L where the model is linear and from 0.1 where not.
        looks: how often the whole objective is computed, one half of them evenly over the passes, one earlier.
        most_samples: to train and to test on; None takes all.
        against_rest: the class to separate from all others; None takes the classes as they are.

    Reference: S. De, A. Yadav, D. Jacobs, T. Goldstein, "Automated Inference with Adaptive Batches" (AISTATS 2017;
    arXiv 1610.05792), section 5. Ours are the cost of trials, the penalty, and rates re-tuned for each seed.
    """

    passes: float = 20.0
    seeds: int = 3
    size: int = 32
    thetas: tuple[float, ...] = (1.0, 0.5)
    penalty: float = 0.01
    untuned: float = 0.01
    decays: tuple[float, ...] = (0.3, 3.0)
    tries: int = 8
    looks: int = 40
    most_samples: int | None = None
    against_rest: int | None = None

    name: ClassVar[str] = "big-batch"
    title: ClassVar[str] = "Big Batch"
    question: ClassVar[str] = (
        "If the batch grows until its gradient exceeds its noise, can the learning rate be found automatically, "
        "without decay, and does the result match tuned SGD?"
    )
    source: ClassVar[str] = DE

    @property
    def classic(self) -> Subject:
        """Logistic regression on the digits."""
        return Subject("digits", "linear")

    @property
    def arms(self) -> list[str]:
        """Every method, most important first."""
        forms = [f"{form}, θ = {theta:g}" for theta in self.thetas for form in ("Armijo", "BB", "fixed step")]
        return ["SGD, tuned", "SGD, decayed", *forms, "SGD, untuned", "Adadelta"]

    def trials(self, subject: Subject) -> list[StudyTrial]:
        """One for each method and seed: all methods with the first seed first.

        Raises:
            InputError: a setting is out of its range, or the data do not suit.
        """
        for name in ("seeds", "tries"):
            require_whole(f"BigBatches.{name}", getattr(self, name), least=1)
        require_whole("BigBatches.looks", self.looks, least=8)
        require_whole("BigBatches.size", self.size, least=2)
        for name in ("passes", "penalty", "untuned"):
            require_number(f"BigBatches.{name}", getattr(self, name), above=0)
        for theta in self.thetas:
            require_number("BigBatches.thetas", theta, above=0, most=1)
        for decay in self.decays:
            require_number("BigBatches.decays", decay, above=0)
        if not self.thetas or not self.decays:
            raise InputError("BigBatches.thetas and BigBatches.decays need one number each, or more.")
        if self.most_samples is not None:
            require_whole("BigBatches.most_samples", self.most_samples, least=2)
        objective = FullObjective.of(subject, self.penalty, self.most_samples, self.against_rest)
        if self.size > len(objective):
            raise InputError(f"BigBatches.size is {self.size}, but there are only {len(objective)} samples.")
        return [
            StudyTrial(f"{arm}, seed {seed}", {"arm": arm, "seed": seed})
            for seed in range(self.seeds)
            for arm in self.arms
        ]

    def run(self, subject: Subject, trial: StudyTrial) -> Result:
        """Tune the rate where the method has one, train, and follow the whole objective."""
        objective, least = known_objective(subject, self.penalty, self.most_samples, self.against_rest)
        arm, seed = str(trial.settings["arm"]), int(trial.settings["seed"])
        decay, rate, tuned = 0.0, self.untuned, None
        if arm in ("SGD, tuned", "SGD, decayed") or arm.startswith("fixed"):
            start = 1 / objective.smoothness() if objective.linear else 0.1
            found = {
                k: self._tuned(objective, arm, seed, k, start)
                for k in (self.decays if arm == "SGD, decayed" else (0.0,))
            }
            decay = min(found, key=lambda k: found[k].cost)
            tuned, rate = found[decay], found[decay].rate
        curves = self._follow(objective, least, arm, seed, rate, decay)
        about: Result = {} if tuned is None else {"rate": tuned.rate, "decay": decay, "enclosed": tuned.enclosed}
        if arm.startswith("fixed"):  # what plain SGD makes of the same rate
            plain = self._follow(objective, least, "SGD, same rate", seed, rate, 0.0)
            about["plain"] = {name: plain[name] for name in ("whole", "passes", "excess")}
        return {**trial.settings, **about, "linear": objective.linear, "samples": len(objective), **curves}

    def section(self, subject: Subject, results: Mapping[str, Result]) -> Section:
        """How far each method came, and what that says of the claims."""
        cells: Cells = {(r["arm"], r["seed"]): r for r in results.values()}
        linear = any(r["linear"] for r in results.values())
        samples = max(r["samples"] for r in results.values())
        arms = [arm for arm in self.arms if any(arm == known for known, _ in cells)]
        rows = [self._row(arm, [r for (known, _), r in sorted(cells.items()) if known == arm]) for arm in arms]
        drawing = Drawing(
            "big_batch",
            draw_passes(arms, cells, linear, samples),
            f"{'Excess objective and gradient' if linear else 'Objective and gradient'} norm over all training "
            "samples, batch size and learning rate against passes, of the first seed. Dotted: Big Batch with θ below 1",
        )
        measure = "log₁₀ (ℓ - ℓ*)" if linear else "log₁₀ ℓ"
        head = (
            "method",
            "runs",
            "rate",
            measure,
            "log₁₀ ‖∇ℓ‖",
            "training accuracy, %",
            "test accuracy, %",
            "steps",
            "last batch",
        )
        paragraphs = [*self._paragraphs(samples, linear), *self._seen(cells, samples)]
        return Section(paragraphs, [drawing], head, rows, findings(cells, self.thetas, self.untuned, linear))

    def _paragraphs(self, samples: int, linear: bool) -> list[str]:
        kind = f"a penalty of λ = {self.penalty:g}, in double precision" if linear else "no penalty"
        start = "1/L, L a bound on the curvature" if linear else "0.1"
        return [
            f"{samples:,} training samples, {kind}; plain SGD steps throughout, but for Adadelta. Every run has "
            f"{self.passes:g} passes: gradients of as many samples as that, a trial loss of a line search counting as "
            f"a third of a gradient. SGD and Adadelta take batches of {self.size}, the initial batch of Big Batch.",
            f"Tuned are the constant rate of SGD, the first of the rates η/(1 + k·passes) for k of "
            f"{', '.join(f'{k:g}' for k in self.decays)}, and the fixed step of Big Batch: for each seed by a walk "
            f"with factor 2 from {start}, to the least objective at the end. Nothing is tuned for Armijo and BB "
            f"(Barzilai-Borwein), for SGD at a rate of {self.untuned:g}, and for Adadelta with its published settings. "
            "The automatic stop of Big Batch is turned off. Intervals hold 90 %, over seeds; differences are taken "
            "seed by seed.",
        ]

    def _seen(self, cells: Cells, samples: int) -> list[str]:
        """How far the batch grew, and what that saves."""
        whole = {cell: r for cell, r in cells.items() if r["whole"]}
        ends = [(r["sizes"][-1], r["steps"][-1]) for (arm, _), r in whole.items() if "θ" in arm]
        plain = [r["steps"][-1] for (arm, _), r in whole.items() if arm in ("SGD, tuned", "SGD, decayed", "Adadelta")]
        if not ends or not plain:
            return []
        sizes, steps = ([round(values[i]) for values in ends] for i in (0, 1))
        return [
            f"From batches of {self.size} Big Batch came to {_span(sizes)} of {samples:,} samples, and made "
            f"{_span(steps)} steps where fixed batches made {_span([round(s) for s in plain])}. The noise of one "
            "sample being what it is, the batch has to grow like 1/‖∇ℓ‖²: what it saves are steps, which parallel "
            "hardware can use, not passes. Where all samples are in the batch, what is left is gradient descent."
        ]

    def _row(self, arm: str, runs: list[Result]) -> list[str]:
        whole = [r for r in runs if r["whole"]]
        if not whole:
            return [arm, "0", "diverged", "", "", "", "", "", ""]
        rates = [math.log10(r["rate"]) for r in whole if "rate" in r]
        rate = f"{10 ** float(np.mean(rates)):.3g}, tuned" if rates else "its own"
        train, test = ([100 * r[name][-1] for r in whole if r[name]] for name in ("train", "test"))
        return [
            arm,
            f"{len(whole)}",
            f"{self.untuned:g}" if arm == "SGD, untuned" else rate,
            show([tail(r, "excess") for r in whole], 2),
            show([tail(r, "norms") for r in whole], 2),
            show(train, 1) if train else "",
            show(test, 1) if test else "",
            f"{round(float(np.mean([r['steps'][-1] for r in whole]))):,}",
            f"{round(float(np.mean([r['sizes'][-1] for r in whole]))):,}",
        ]

    # Running.

    def _tuned(self, objective: FullObjective, arm: str, seed: int, decay: float, start: float) -> Retuned:
        def cost(rate: float, _: float) -> float:
            return self._train(objective, arm, seed, rate, decay)

        return retune(cost, start, tries=self.tries)

    def _train(self, objective: FullObjective, arm: str, seed: int, rate: float, decay: float) -> float:
        """The whole objective at the end; inf where it has not fallen after half of the passes."""
        model, checked = objective.network(seed), False
        before, budget = objective.look(model).value, self.passes * len(objective)
        for step in steps_of(objective, model, arm, self.size, seed, rate, decay):
            if not checked and step.work >= budget / 2:
                checked = True
                if not objective.look(model).value < before:
                    return math.inf
            if step.work >= budget:
                return objective.look(model).value
        return math.inf

    def _follow(
        self,
        objective: FullObjective,
        least: float,
        arm: str,
        seed: int,
        rate: float,
        decay: float,
    ) -> Result:
        """The curves, and whether the run came to its end."""
        n, model = len(objective), objective.network(seed)
        curves: dict[str, list[float]] = {name: [] for name in SERIES}
        even = np.linspace(0, self.passes, self.looks // 2 + 1)[1:]
        early = np.geomspace(self.size / n, self.passes, self.looks - len(even), endpoint=False)
        marks = sorted({*even.tolist(), *early.tolist()}, reverse=True)
        steps = steps_of(objective, model, arm, self.size, seed, rate, decay) if math.isfinite(rate) else iter(())
        for number, step in enumerate(steps, 1):
            if step.work < marks[-1] * n:
                continue
            while marks and step.work >= marks[-1] * n:
                marks.pop()
            seen = gradient_norm(model) if step.norm is None else step.norm
            look = objective.look(model)
            if not math.isfinite(look.value):
                break
            seen_now = (step.work / n, number, step.size, step.rate, look.value - least, look.norm, seen)
            accuracies = (look.accuracy, objective.test_accuracy(model)) if objective.classifies else ()
            for name, value in zip(SERIES, (*seen_now, *accuracies), strict=False):
                curves[name].append(value)
            if not marks:
                break
        return {"whole": not marks, **{name: rounded(values) for name, values in curves.items()}}


def _span(values: list[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
