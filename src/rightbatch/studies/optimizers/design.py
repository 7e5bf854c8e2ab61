"""SGD, momentum in two notations, RMSProp and Adam over batch sizes, tuned at each; beside those without a rate."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ...errors import InputError
from ...ranges import require_whole
from ..experiment import Drawing, Experiment, Result, Section, StudyTrial, rounded
from ..over_seeds import show, show_factor
from ..retuning import Retuned, retune
from ..subject import Subject
from .arms import (
    AUTOMATIC,
    AVERAGED,
    BETA,
    MEASURED,
    PACKAGED,
    RULED,
    STARTS,
    TrainingProblem,
    final_loss,
    installed,
    made,
    notations_apart,
    packaged_run,
    plain_run,
    ruled_run,
)
from .claims import Runs, claims

FREE = (*PACKAGED, *RULED)
FURTHER = 1000  # added to the seed of the order in which rates are tuned


@dataclass(frozen=True)
class Optimizers(Experiment):
    """Train with each optimizer at each batch size for equally many samples, at its best rate, from the same start.

    A rate is best that has the least training loss at the end, of rates a factor of 2 apart; the run that counts is a
    further one at that rate, in another order. Between the rates tried, the best lies where the parabola through the
    logarithms of the least loss and its two neighbours has its vertex. Optimizers that need no rate run once, at their
    defaults, in the order of the run that counts.

    Args:
        sizes: batch sizes, rising.
        seeds: of initial parameters and order.
        samples: that each run consumes, up to part of a batch.
        tries: rates at most for one optimizer, size and seed.
    """

    sizes: tuple[int, ...] = (8, 32, 128, 512)
    seeds: int = 3
    samples: int = 15_000
    tries: int = 9

    name: ClassVar[str] = "optimizers"
    title: ClassVar[str] = "Optimizers over batch sizes"
    question: ClassVar[str] = (
        "Which optimizer suits which batch size, how should its learning rate scale, and are optimizers without a "
        "learning rate as good as tuned ones?"
    )
    source: ClassVar[str] = "publications on each optimizer and on scaling the learning rate"

    @property
    def classic(self) -> Subject:
        """The digits, with two hidden layers."""
        return Subject("digits", "mlp")

    def trials(self, subject: Subject) -> list[StudyTrial]:
        """A run for each optimizer, size and seed, and one of the automatic mode; all with the first seed first.

        Raises:
            InputError: a setting out of its range, or sizes the data do not allow.
        """
        for name in ("seeds", "tries"):
            require_whole(f"Optimizers.{name}", getattr(self, name), least=1)
        for size in self.sizes:
            require_whole("a size of Optimizers", size, least=1)
        if len(self.sizes) < 2 or list(self.sizes) != sorted(set(self.sizes)):
            raise InputError(f"Optimizers.sizes are {self.sizes}: give two or more, in increasing order.")
        n = len(subject.sources()[0])
        if self.sizes[-1] > n:
            raise InputError(
                f"Optimizers.sizes go up to {self.sizes[-1]}, but there are {n} samples: give at most {n}."
            )
        require_whole("Optimizers.samples", self.samples, least=2 * self.sizes[-1])
        subject.network(0)
        names = [*STARTS, *(name for name in FREE if installed(name))]
        return [
            StudyTrial(f"{name}, batch {size}, seed {seed}", {"optimizer": name, "size": size, "seed": seed})
            for seed in range(self.seeds)
            for name, size in [*((name, size) for name in names for size in self.sizes), (AUTOMATIC, 0)]
        ]

    def run(self, subject: Subject, trial: StudyTrial) -> Result:
        """Tune, where there is a rate to tune, and train."""
        import torch

        name, size, seed = (trial.settings[key] for key in ("optimizer", "size", "seed"))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return {"optimizer": name, "size": size, "seed": seed, **self._run(subject, name, size, seed)}

    def _run(self, subject: Subject, name: str, size: int, seed: int) -> Result:
        problem, model, order = TrainingProblem.of(subject), subject.network(seed), seed + FURTHER
        if name == AUTOMATIC:
            return ruled_run(problem, model, "auto", "auto", self.samples, order)
        if name in RULED:
            return ruled_run(problem, model, size, RULED[name], self.samples, order)
        steps = self.samples // size
        if name in PACKAGED:
            return packaged_run(name, problem, model, size, steps, order)

        def cost(rate: float, limit: float) -> float:
            fresh = subject.network(seed)
            return final_loss(problem, fresh, made(name, fresh, rate), size, steps, seed)

        found = retune(cost, STARTS[name], tries=self.tries)
        if math.isnan(found.rate):
            return {"rate": None, "loss": None, "test_loss": None, "accuracy": None}
        result = plain_run(problem, model, made(name, model, found.rate), size, steps, order)
        if name == "momentum":
            result["apart"] = rounded([notations_apart(problem, subject, found.rate, size, steps, seed)])[0]
        about = {"rate": found.rate, "best": rounded([vertex(found)])[0], "enclosed": found.enclosed}
        return {**about, "tried": len(found.tried), **result}

    def section(self, subject: Subject, results: Mapping[str, Result]) -> Section:
        """Losses, accuracies and rates over batch sizes, and the claims."""
        from .figures import loss_figure, rate_figure

        runs = Runs(results.values(), self.sizes)
        order = [*STARTS, *FREE, AUTOMATIC]
        rows = []
        for name, size in sorted(runs.cells, key=lambda cell: (order.index(cell[0]), cell[1])):
            each = runs.cells[name, size].values()
            values = {
                key: [run[key] for run in each if run.get(key) is not None] for key in ("best", "loss", "accuracy")
            }
            edges = sum(not run.get("enclosed", True) for run in each)
            lost = sum(run["loss"] is None for run in each)
            rows.append(
                (
                    name,
                    f"{size:,}" if size else "its own",
                    f"{len(each)}" + (f", {lost} diverged" if lost else ""),
                    (show_factor(values["best"]) if values["best"] else "default")
                    + (f", {edges} at the edge" if edges else ""),
                    show_factor([value for value in values["loss"] if value > 0]),
                    show([100 * value for value in values["accuracy"]], 1) if values["accuracy"] else "",
                )
            )
        drawings = []
        if any(run["loss"] for cell in runs.cells.values() for run in cell.values()):
            about = "Training loss at the end of equal samples against batch size: left at tuned rates, right without"
            drawings.append(Drawing("optimizer_losses", loss_figure(runs, self.sizes), about))
        if runs.rates:
            about = "Tuned rate against batch size, a line for each optimizer; dotted, exponents 1 and 1/2"
            drawings.append(Drawing("optimizer_rates", rate_figure(runs, self.sizes), about))
        head = ("optimizer", "batch size", "runs", "best rate", "training loss", "test accuracy, %")
        return Section(self._paragraphs(subject), drawings, head, rows, claims(self.sizes, runs))

    def _paragraphs(self, subject: Subject) -> list[str]:
        n = len(subject.sources()[0])
        missing = [name for name in PACKAGED if not installed(name)]
        texts = [
            f"{n:,} samples, {self.samples:,} of them presented in every run ({self.samples / n:.3g} epochs), "
            "without decay of the rate. Each optimizer has its rate tuned for each batch size and seed: powers of two "
            "apart, downhill in the training loss at the end until the neighbours of the best are worse, at most "
            f"{self.tries} of them, from the same rate at all sizes. What is shown is a further run at that rate in "
            f"another order. The training loss is taken over {min(n, MEASURED):,} of the samples. Momentum is "
            f"{BETA:g}; all else is as torch has it.",
            f"Momentum stands here twice: the sum v ← βv + g, and, as {AVERAGED}, torch's dampening of β, "
            "v ← βv + (1 - β)g after a first step with the whole gradient. Begun at zero the average takes exactly the "
            "way of the sum at a rate 1/(1 - β) times as large.",
            "Without a rate, at their defaults: schedule-free SGD and AdamW, which average; Prodigy; DoG and DoWG, as "
            "rules around SGD, without the averaging their papers add; the automatic step of this library at each "
            "size, and automatic, which chooses the batch too, from the seconds of a step on this machine. Intervals "
            "hold 90 %, over the seeds; losses and rates are geometric means.",
        ]
        if missing:
            texts.append(f"Not installed and omitted: {', '.join(missing)}.")
        return texts


def vertex(found: Retuned) -> float:
    """Where the parabola through the logarithms of the least cost and its neighbours' has its vertex.

    At most half a factor from the best rate tried; that rate itself where a neighbour is missing or failed.
    """
    rates = list(found.tried)
    at = rates.index(found.rate)
    if not 0 < at < len(rates) - 1:
        return found.rate
    costs = [found.tried[rate] for rate in rates[at - 1 : at + 2]]
    if not all(0 < cost < math.inf for cost in costs):
        return found.rate
    low, middle, high = map(math.log, costs)
    bend = low - 2 * middle + high
    share = 0.5 * (low - high) / bend if bend > 0 else 0.0
    return float(found.rate * (rates[at + 1] / found.rate) ** share)
