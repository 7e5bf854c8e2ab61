"""How well small and large batches generalise, in equal samples, seconds and steps, however the rate is set."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from ...errors import InputError
from ...ranges import require_choice, require_number, require_whole
from ..experiment import SHEN, Experiment, Result, Section, StudyTrial
from ..retuning import retune
from ..subject import Subject
from .claims import KESKAR, findings
from .figure import drawings
from .results import BUDGETS, WAYS, Cells, rows, seen
from .runs import (
    DROPOUT,
    Parts,
    Phase,
    SteppedRun,
    curve,
    divide,
    network,
    outcome,
    phases,
    step_seconds,
    trained_on,
)
from .sharpness import keskar_sharpness, largest_eigenvalue, require_scipy

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

SWITCHES = ("large, then small", "small, then large", "large, then a larger rate")
VARIANTS = ("dropout", "batch norm")


@dataclass(frozen=True)
class Generalisation(Experiment):
    """Train at several batch sizes, the rate fixed, scaled and re-tuned; test in equal samples, seconds and steps.

    One run is read at three ends: after so many epochs; after as many seconds as the smallest batch takes for them, by
    the median time of a step; and after as many steps as it takes. Each way to set the rate has its runs, and each end
    its own re-tuned rate, the best on validation data there; test data choose nothing.

    Args:
        sizes: batch sizes; those not below the large one are omitted.
        large: the largest batch, as a share of the samples trained on.
        seeds: of the samples drawn, their division, initial parameters and order.
        epochs: that equal samples are.
        rate: learning rate that suits the smallest batch (with Adam rather 0.001); kept at the others, or scaled by
            batch size over smallest size or its root.
        optimizer: "SGD", with momentum, or "Adam", with torch's settings.
        momentum: of SGD.
        most_samples: drawn from the training data, the held-out part among them, and from the test data.
        validation: share of those drawn from the training data that is held out to choose by.
        label_noise: share of the labels of training and validation data replaced by another class.
        variants: of the built-in model "mlp", for the smallest and the largest batch: "dropout", "batch norm".
        looks: at how many steps a run is looked at, evenly on the logarithm of the steps, beside its ends.
        tuned_by: what a re-tuned rate is best in on validation data, and the sweet spot on test data: "loss", or
            "accuracy", which long training may still raise when it raises the loss too.
        tries: learning rates tried for each end, at most.

    Reference: N. Keskar et al., "On large-batch training for deep learning" (ICLR 2017); K. Shen, "Effect of batch
    size on training dynamics" (2018).
    """

    sizes: tuple[int, ...] = (8, 32, 64, 256)
    large: float = 0.1
    seeds: int = 5
    epochs: int = 10
    rate: float = 0.02
    optimizer: Literal["SGD", "Adam"] = "SGD"
    momentum: float = 0.9
    most_samples: int = 3000
    validation: float = 0.2
    label_noise: float = 0.0
    variants: tuple[str, ...] = VARIANTS
    looks: int = 12
    tuned_by: Literal["loss", "accuracy"] = "loss"
    tries: int = 8

    name: ClassVar[str] = "generalisation"
    title: ClassVar[str] = "Batch size and generalisation"
    question: ClassVar[str] = (
        "Do large batches find sharper solutions that generalize worse, or do they only take fewer steps at an "
        "unsuitable learning rate?"
    )
    source: ClassVar[str] = f"{KESKAR}, {SHEN}, and later work"

    @property
    def classic(self) -> Subject:
        """The digits, with two hidden layers."""
        return Subject("digits", "mlp")

    def batches(self, subject: Subject) -> list[int]:
        """The sizes, the large one last."""
        large = round(self.large * self._trained_on(subject))
        return [*(b for b in self.sizes if b < large), large]

    def trials(self, subject: Subject) -> list[StudyTrial]:
        """For each seed every batch size, then the switches of size, then the variants of the network at one rate.

        Raises:
            InputError: a setting is out of its range, too few samples, or targets that are not classes.
            MissingExtraError: scipy is not installed.
        """
        for name, least in (("seeds", 1), ("epochs", 1), ("most_samples", 10), ("looks", 2), ("tries", 3)):
            require_whole(f"Generalisation.{name}", getattr(self, name), least=least)
        require_number("Generalisation.rate", self.rate, above=0)
        for name in ("large", "validation"):
            require_number(f"Generalisation.{name}", getattr(self, name), above=0, most=0.5)
        for name in ("momentum", "label_noise"):
            require_number(f"Generalisation.{name}", getattr(self, name), least=0, most=0.99)
        for size in self.sizes:
            require_whole("Generalisation.sizes", size, least=2)
        require_choice("Generalisation.optimizer", self.optimizer, ("SGD", "Adam"))
        require_choice("Generalisation.tuned_by", self.tuned_by, ("loss", "accuracy"))
        for variant in self.variants:
            require_choice("Generalisation.variants", variant, VARIANTS)
        train, _ = subject.sources()
        if train.y_dtype.is_floating_point or train.y_shape:
            raise InputError(
                f"The targets of {subject.data} are not one class for each sample; accuracy, which the claims are "
                "about, needs that."
            )
        sizes = self.batches(subject)
        if len(sizes) < 2 or sizes != sorted(set(sizes)):
            raise InputError(
                f"Generalisation.sizes are {self.sizes} and the large batch is {sizes[-1]}, {self.large:g} of the "
                f"{self._trained_on(subject):,} samples trained on: give rising sizes, one at least below it."
            )
        require_scipy()
        variants = self.variants if subject.model == "mlp" else ()
        trials = []
        for seed in range(self.seeds):
            plans = [(f"batch {b}", {"kind": "plain", "size": b}) for b in sizes]
            plans += [(switch, {"kind": "switch", "switch": switch}) for switch in SWITCHES]
            plans += [(f"{v}, batch {b}", {"kind": v, "size": b}) for v in variants for b in (sizes[0], sizes[-1])]
            trials += [StudyTrial(f"{key}, seed {seed}", {**settings, "seed": seed}) for key, settings in plans]
        return trials

    def run(self, subject: Subject, trial: StudyTrial) -> Result:
        """Train with each way to set the rate, as far as an end needs it; or switch the batch size on the way."""
        settings, seed = trial.settings, int(trial.settings["seed"])
        parts = divide(subject, seed, self.most_samples, self.validation, self.label_noise)
        if settings["kind"] == "switch":
            return {**settings, **self._switched(subject, parts, settings["switch"], seed)}
        small, size, kind = self.batches(subject)[0], int(settings["size"]), settings["kind"]
        models = [network(subject, seed, kind) for _ in range(2)]
        seconds = step_seconds(parts, models, [self._optimizer(model) for model in models], (small, size))
        samples = self.epochs * len(parts.train[0])
        ends = {"samples": samples // size, "steps": samples // small}
        ends["seconds"] = min(max(round(ends["steps"] * seconds[0] / seconds[1]), ends["samples"]), ends["steps"])
        runs: dict[float, SteppedRun] = {}

        def run_at(rate: float) -> SteppedRun:
            if rate not in runs:
                model = network(subject, seed, kind)
                plan: list[Phase] = [(size, rate, None)]
                runs[rate] = self._run(parts, model, plan, ends["steps"], set(ends.values()), seed)
            return runs[rate]

        def cost(end: int, rate: float, _: float) -> float:
            look = run_at(rate).upto(end)
            if look is None:
                return math.inf
            return look.validation_loss if self.tuned_by == "loss" else 1 - look.validation_accuracy

        ratio = size / small
        rates = {"fixed": self.rate, "linear": self.rate * ratio, "root": self.rate * math.sqrt(ratio)}
        outcomes: dict[str, dict[str, Result | None]] = {way: {} for way in WAYS}
        enclosed, begin = {}, rates["root"]
        measured = cache(partial(self._sharpness, network(subject, seed, kind), parts))
        for budget in BUDGETS:
            end = ends[budget]
            if kind == "plain":
                found = retune(partial(cost, end), begin, tries=self.tries)
                enclosed[budget] = found.enclosed
                rates["tuned"] = found.rate
                begin = begin if math.isnan(found.rate) else found.rate
            for way, rate in rates.items() if kind == "plain" else [("fixed", self.rate)]:
                if math.isnan(rate) or run_at(rate).upto(end) is None:
                    outcomes[way][budget] = None
                    continue
                sharp = measured(runs[rate], end) if way in ("fixed", "tuned") and budget != "seconds" else {}
                outcomes[way][budget] = outcome(runs[rate], end, rate, sharp)
        fixed = run_at(self.rate)
        return {
            **settings,
            "ends": ends,
            "step_s": [float(f"{value:.4g}") for value in seconds],
            "enclosed": enclosed,
            "outcomes": outcomes,
            "curve": curve(fixed, ends["steps"]),
        }

    def section(self, subject: Subject, results: Mapping[str, Result]) -> Section:
        """Test loss, gap and sharpness by batch size; what the switches did; the claims."""
        cells = Cells(results, self.batches(subject), self.described, self.tuned_by)
        paragraphs = [self._set_up(subject, cells), *seen(cells)]
        return Section(paragraphs, drawings(cells), *rows(cells), findings(cells))

    @property
    def described(self) -> str:
        """The optimizer in words."""
        if self.optimizer == "Adam":
            return "Adam"
        return f"SGD with momentum {self.momentum:g}" if self.momentum else "plain SGD"

    def _set_up(self, subject: Subject, cells: Cells) -> str:
        n, sizes = self._trained_on(subject), cells.sizes
        noise = (
            f"{self.label_noise:.0%} of the labels of training and validation data are replaced by another class"
            if self.label_noise
            else "no labels are changed"
        )
        variants = (
            f"Dropout ({DROPOUT:g}) and batch norm are tried at the smallest and the largest size, at the one rate. "
            if subject.model == "mlp" and self.variants
            else "Dropout and batch norm are variants of the built-in mlp, and are omitted here. "
        )
        return (
            f"{self.described} on {n:,} samples, drawn, like the validation data, separately for each seed; {noise}. "
            f"Batches of {', '.join(f'{b:,}' for b in sizes)}, the last {self.large:.0%} of the samples. The rate is "
            f"{self.rate:g} at every size (fixed), scaled by the batch size over {sizes[0]} (linear) or its root, or "
            f"re-tuned: for each size, seed and end, a walk over factors of 2 to the best validation {self.tuned_by}. "
            f"Ends are {self.epochs} epochs (equal samples), the time that batch {sizes[0]} takes for them, by the "
            f"median time of a step (equal seconds), and its number of steps (equal steps). {variants}Intervals hold "
            "90 %, over seeds; differences are taken within a seed. They do not hold the choice of the test samples, "
            "which are the same for all."
        )

    def _trained_on(self, subject: Subject) -> int:
        return trained_on(len(subject.sources()[0]), self.most_samples, self.validation)

    def _optimizer(self, model: "nn.Module") -> "Optimizer":
        import torch

        if self.optimizer == "Adam":
            return torch.optim.Adam(model.parameters(), lr=self.rate)
        return torch.optim.SGD(model.parameters(), lr=self.rate, momentum=self.momentum)

    def _run(
        self,
        parts: Parts,
        model: "nn.Module",
        plan: list[Phase],
        last: int,
        ends: set[int],
        seed: int,
    ) -> SteppedRun:
        looks = np.geomspace(max(1, last // 200), last, self.looks).round().astype(int).tolist()
        steps = phases(parts, model, self._optimizer(model), plan, seed)
        return SteppedRun(parts, model, steps, frozenset({*looks, *ends}), frozenset(ends))

    @staticmethod
    def _sharpness(model: "nn.Module", parts: Parts, run: SteppedRun, end: int) -> dict[str, float]:
        """Of the loss over all samples trained on, in a network beside that of the run, which may go on."""
        model.load_state_dict(run.kept[end])
        about = model, parts.loss, *parts.train
        return {"sharpness": keskar_sharpness(*about), "eigenvalue": largest_eigenvalue(*about)}

    def _switched(self, subject: Subject, parts: Parts, switch: str, seed: int) -> Result:
        """As many samples before the switch as after it, at the fixed rate, or at the scaled one after it."""
        sizes, samples = self.batches(subject), self.epochs * len(parts.train[0])
        small, large = sizes[0], sizes[-1]
        plans: dict[str, list[tuple[int, float]]] = {
            "large, then small": [(large, self.rate), (small, self.rate)],
            "small, then large": [(small, self.rate), (large, self.rate)],
            "large, then a larger rate": [(large, self.rate), (large, self.rate * large / small)],
        }
        plan = [(b, rate, samples // b) for b, rate in plans[switch]]
        first, second = (steps for _, _, steps in plan)
        looks = np.linspace(0, 1, self.looks)[1:]
        after = {*(first * looks).round(), *(first + second * looks).round()}
        model = network(subject, seed, "plain")
        steps = phases(parts, model, self._optimizer(model), [*plan[:1], (*plan[1][:2], None)], seed)
        run = SteppedRun(parts, model, steps, frozenset(int(step) for step in after), frozenset())
        end = run.upto(first + second)
        return {"end": end and end.rounded(), "curve": curve(run, first + second)}
