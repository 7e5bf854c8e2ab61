"""Stochastic, mini-batch and batch gradient descent on three blobs, and what the automatic mode does there."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..errors import InputError
from ..models import build_model
from ..ranges import require_number, require_whole
from .experiment import Drawing, Experiment, Finding, Result, Section, Trial, Verdict
from .one_hidden_layer import OneHiddenLayer
from .over_seeds import below_zero, run_interval, told
from .subject import Subject, everything

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn

    from ..data import Source

FULL = 0  # stands for all the data
UNITS = 50
BROWNLEE = "J. Brownlee, How to Control the Stability of Training Neural Networks With the Batch Size (2019)"
# Accuracy on training and test data of his single runs, by batch size and learning rate.
PUBLISHED = {
    (FULL, 0.01): (0.816, 0.830),
    (1, 0.01): (0.612, 0.606),
    (1, 0.001): (0.816, 0.824),
    (32, 0.01): (0.832, 0.812),
}
AUTOMATIC = {"automatic": "auto", "automatic from batch 1": "sweet-spot(first=1)"}
AIM, AIM_UPDATES = 0.82, 12_500  # what batch 1 reaches by its 25th epoch, when its slower rate suits it


def relu_50(x_shape: tuple[int, ...], outputs: int) -> "nn.Module":
    """50 ReLU units, started as Keras would: He's uniform, then Glorot's, biases of zero."""
    from torch import nn

    hidden, output = nn.Linear(math.prod(x_shape), UNITS), nn.Linear(UNITS, outputs)
    nn.init.kaiming_uniform_(hidden.weight, nonlinearity="relu")
    nn.init.xavier_uniform_(output.weight)
    for layer in (hidden, output):
        nn.init.zeros_(layer.bias)
    return nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), output)


@dataclass(frozen=True)
class BatchForms(Experiment):
    """Train by SGD with momentum on one example, some, or all of them a step; look at both accuracies at every epoch.

    The forms differ in the size alone, the last batch of an epoch being what is left. `batch="auto", step="auto"`
    stands beside them, from its own first batch and from a batch of 1.

    Args:
        sizes: batch sizes at `rate`; 0 is all the data.
        rate: learning rate.
        low_rate: learning rate that batch 1 is also given.
        momentum: of SGD.
        epochs: of each run.
        seeds: of initial parameters and order; the data are the same throughout.
    """

    sizes: tuple[int, ...] = (FULL, 1, 32, 4, 8, 16, 64, 128, 256, 450)
    rate: float = 0.01
    low_rate: float = 0.001
    momentum: float = 0.9
    epochs: int = 200
    seeds: int = 5

    name: ClassVar[str] = "forms"
    title: ClassVar[str] = "Stochastic, mini-batch, batch"
    question: ClassVar[str] = (
        "One example a step, some, or all of them, for equally many epochs: which form learns fast, which is steady, "
        "and does one have to choose?"
    )
    source: ClassVar[str] = BROWNLEE

    @property
    def classic(self) -> Subject:
        """Three overlapping blobs in the plane, 500 points to train on and 500 to test on; 50 ReLU units."""
        return Subject("three-blobs", f"{__name__}:{relu_50.__name__}")

    def trials(self, subject: Subject) -> list[Trial]:
        """One run for each form and seed, all forms with the first seed first; sizes above the data are left out."""
        for name in ("seeds", "epochs"):
            require_whole(f"BatchForms.{name}", getattr(self, name), least=1)
        for name in ("rate", "low_rate"):
            require_number(f"BatchForms.{name}", getattr(self, name), above=0)
        require_number("BatchForms.momentum", self.momentum, least=0, most=1)
        for size in self.sizes:
            require_whole("a size of BatchForms", size, least=0)
        train, _ = subject.sources()
        if train.classes is None:
            raise InputError(
                f"The targets of {subject.data} are no classes numbered from 0, so that there is no accuracy: "
                "give data to classify."
            )
        forms = [(size, self.rate) for size in self.sizes if size <= len(train)]
        if 1 in self.sizes:
            forms.insert(forms.index((1, self.rate)) + 1, (1, self.low_rate))
        settings = [{"size": size, "rate": rate} for size, rate in forms]
        named = [(_form(size, rate), each) for (size, rate), each in zip(forms, settings, strict=True)]
        arms = named + [(name, {"batch": batch}) for name, batch in AUTOMATIC.items()]
        return [
            Trial(f"{name}, seed {seed}", {"form": name, "seed": seed, **each})
            for seed in range(self.seeds)
            for name, each in arms
        ]

    def run(self, subject: Subject, trial: Trial) -> Result:
        """Train; give both accuracies and the updates made at the end of every epoch."""
        train, test = subject.sources()
        assert train.classes is not None  # `trials` has seen to it
        model = build_model(subject.model, train.x_shape, train.classes, int(trial.settings["seed"]))
        curves: dict[str, list[float]] = {"train": [], "test": [], "updates": []}
        if "batch" in trial.settings:
            self._automatic(model, train, test, trial, curves)
        else:
            self._fixed(model, train, test, trial, curves)
        return {"form": trial.settings["form"], "seed": trial.settings["seed"], **curves}

    def _fixed(
        self, model: "nn.Module", train: "Source", test: "Source", trial: Trial, curves: dict[str, list[float]]
    ) -> None:
        import torch

        from ..data import Order
        from ..training.losses import default_loss

        x, y = everything(train)
        n, rate = len(x), float(trial.settings["rate"])
        b, order, loss = int(trial.settings["size"]) or n, Order(n, int(trial.settings["seed"])), default_loss(train)
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=self.momentum)
        by_hand = OneHiddenLayer.copy(model)
        for epoch in range(self.epochs):
            rows = torch.from_numpy(order.indices(epoch, 0, n))
            inputs, targets = x[rows], y[rows]
            if by_hand is not None:
                flat, classes = inputs.reshape(n, -1).numpy(), targets.numpy()
                for start in range(0, n, b):
                    by_hand.step(flat[start : start + b], classes[start : start + b], rate, self.momentum)
                by_hand.paste(model)
            else:
                for start in range(0, n, b):
                    optimizer.zero_grad()
                    value = loss(model(inputs[start : start + b]), targets[start : start + b])
                    value.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
            _look(model, train, test, curves, (epoch + 1) * -(-n // b))

    def _automatic(
        self, model: "nn.Module", train: "Source", test: "Source", trial: Trial, curves: dict[str, list[float]]
    ) -> None:
        from ..training import AutoBatch
        from ..training.losses import default_loss

        loss, seed = default_loss(train), int(trial.settings["seed"])
        auto = AutoBatch(model, None, train, str(trial.settings["batch"]), "auto", seed=seed, epochs=self.epochs)
        for x, y in auto:
            auto.backward(loss(model(x), y))
            if auto.step():
                with auto.averaged():
                    while len(curves["test"]) < int(auto.epoch):
                        _look(model, train, test, curves, auto.steps)
        with auto.averaged():
            while len(curves["test"]) < self.epochs:
                _look(model, train, test, curves, auto.steps)

    def section(self, subject: Subject, results: Mapping[str, Result]) -> Section:
        """The curves, their ends, and the published figures beside them."""
        forms: Forms = {}
        for result in results.values():
            forms.setdefault(str(result["form"]), {})[int(result["seed"])] = result
        classic = subject == self.classic and all(
            getattr(self, name) == getattr(BatchForms, name) for name in ("rate", "low_rate", "momentum", "epochs")
        )
        published = {_form(*key): value for key, value in PUBLISHED.items()} if classic else {}
        rows = [
            (
                form,
                f"{len(runs)}",
                _range([run["updates"][-1] for run in runs.values()]),
                *(told([run[part][-1] for run in runs.values()]) for part in ("train", "test")),
                told([self._early(run) for run in runs.values()]),
                told([self._volatility(run) for run in runs.values()], digits=4),
            )
            for form, runs in forms.items()
        ]
        head = ("form", "runs", "updates", "training accuracy", "test accuracy", "early", "volatility")
        paragraphs = [
            f"SGD with a momentum of {self.momentum:g} on {len(subject.sources()[0]):,} examples for {self.epochs:,} "
            "epochs; accuracies are those of the model at the end of an epoch. Seeds differ in initial parameters and "
            "order; data and division are the same in all. Early: mean training accuracy of the first "
            f"{self._first_epochs:,} epochs. Volatility: mean change of the test accuracy from one epoch to the next, "
            "over the second half. The last batch of an epoch is what is left: of 500 examples 450 leave 50, a small "
            "batch at full weight. Intervals hold 90 % by Student's t over the seeds.",
            "Automatic is step='auto', batch='auto' and nothing else, and the same with a first batch of 1; it has no "
            "learning rate to start badly from. It answers with averaged parameters, which is why its curves are "
            "smooth. Its batch depends on the seconds a step takes, so that another machine sees other curves.",
        ]
        if published:
            paragraphs.append(
                "The published figures are of single runs, so they are held against where one further run of ours "
                "would lie (90 %), not against our mean. A wide interval agrees with much: there, one run shows little."
            )
        drawings = []
        compared = [form for form in (*(_form(*key) for key in PUBLISHED), *AUTOMATIC) if form in forms]
        if compared:
            about = "Accuracy over the epochs by form, a line for each seed: blue on training data, orange on test data"
            about += "; dashed, the published test accuracy" if published else ""
            drawings.append(Drawing("forms", _figure(forms, compared, published), about))
        sweep = [_form(size, self.rate) for size in self._sweep if _form(size, self.rate) in forms]
        if len(sweep) > 1:
            about = f"The same at a learning rate of {self.rate:g}, from the smallest batch to the largest"
            drawings.append(Drawing("sweep", _figure(forms, sweep, {}), about))
        return Section(paragraphs, drawings, head, rows, self._findings(forms, published))

    @property
    def _sweep(self) -> list[int]:
        """Sizes that the claims about small and large are judged by; batch 1 and all the data are told apart."""
        return sorted(size for size in self.sizes if size > 1)

    @property
    def _first_epochs(self) -> int:
        return max(1, self.epochs // 20)

    def _early(self, run: Result) -> float:
        return float(mean(run["train"][: self._first_epochs]))

    def _volatility(self, run: Result) -> float:
        late = run["test"][self.epochs // 2 :]
        return float(np.mean(np.abs(np.diff(late)))) if len(late) > 1 else 0.0

    def _findings(self, forms: "Forms", published: Mapping[str, tuple[float, float]]) -> list[Finding]:
        findings = []
        for form, figures in published.items():
            if form in forms:
                ends = {part: [run[part][-1] for run in forms[form].values()] for part in ("train", "test")}
                where = [run_interval(values) for values in ends.values()]
                inside = [span and span[0] <= figure <= span[1] for span, figure in zip(where, figures, strict=True)]
                verdict: Verdict = "cannot tell" if None in inside else "agrees" if all(inside) else "differs"
                ours = ", ".join(f"{part} {told(values, further=True)}" for part, values in ends.items())
                theirs = f"train {figures[0]:.3f}, test {figures[1]:.3f}"
                findings.append(Finding(f"accuracy at the end: {form}", "Brownlee", theirs, ours, verdict))
        fast, slow = (forms.get(_form(1, rate), {}) for rate in (self.rate, self.low_rate))
        worse = [fast[seed]["test"][-1] - slow[seed]["test"][-1] for seed in fast if seed in slow]
        for claim, theirs, values, what in (
            (
                f"batch 1 ends with a lower test accuracy at {self.rate:g} than at {self.low_rate:g}",
                "0.218 lower" if published else "lower",
                worse,
                "difference of test accuracy",
            ),
            (
                "at one learning rate, small batches learn fast and large ones slowly",
                "read off curves",
                self._slopes(forms, self._early),
                "early accuracy per doubling of the batch",
            ),
            (
                "at one learning rate, small batches are volatile and large ones steady",
                "read off curves",
                self._slopes(forms, self._volatility),
                "volatility per doubling of the batch",
            ),
        ):
            if values:
                ours = f"{what} {told(values, digits=4)}"
                findings.append(Finding(claim, "Brownlee", theirs, ours, below_zero(values)))
        return findings + [
            self._judged(form, [*forms[form].values()]) for form in AUTOMATIC if published and form in forms
        ]

    def _judged(self, form: str, runs: Sequence[Result]) -> Finding:
        """The automatic mode held against what it is to reach on the classic problem."""
        ends, updates = [run["test"][-1] for run in runs], [run["updates"][-1] for run in runs]
        verdict = below_zero([AIM - end for end in ends])
        if verdict == "agrees" and max(updates) >= AIM_UPDATES:
            verdict = "differs"
        theirs = f"test accuracy above {AIM} in fewer than {AIM_UPDATES:,} updates"
        return Finding(f"{form} needs no tuning", "our aim", theirs, f"{told(ends)} in {_range(updates)}", verdict)

    def _slopes(self, forms: "Forms", measure: Callable[[Result], float]) -> list[float]:
        """The slope of a measure over log₂ of the batch size, for each seed that has three sizes or more."""
        slopes = []
        for seed in range(self.seeds):
            arms = [(size, forms.get(_form(size, self.rate), {}).get(seed)) for size in self._sweep]
            there = [(math.log2(size), measure(run)) for size, run in arms if run is not None]
            if len(there) >= 3:
                doublings, values = np.array(there).T
                slopes.append(float(np.polyfit(doublings, values, 1)[0]))
        return slopes


Forms = dict[str, dict[int, Result]]  # runs by the name of the form and the seed


def _form(size: int, rate: float) -> str:
    return f"{'all' if size == FULL else f'batch {size}'} at {rate:g}"


def _range(counts: Sequence[float]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _look(model: "nn.Module", train: "Source", test: "Source", curves: dict[str, list[float]], updates: int) -> None:
    from ..training.evaluation import evaluating

    with evaluating(model):
        for part, source in (("train", train), ("test", test)):
            x, y = everything(source)
            curves[part].append(float((model(x).argmax(1) == y).double().mean()))
    curves["updates"].append(updates)


def _figure(forms: "Forms", shown: Sequence[str], published: Mapping[str, tuple[float, float]]) -> "Figure":
    from ..report.drawing import BLUE, MUTED, ORANGE, finish, styled

    columns = 4 if len(shown) > 6 else 3
    lines = -(-len(shown) // columns)

    @styled
    def draw() -> "Figure":
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 2.4 * lines), layout="constrained")
        grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
        low = min(min(run[part]) for form in shown for run in forms[form].values() for part in ("train", "test"))
        for place, (axes, form) in enumerate(zip(grid.flat, shown, strict=False)):
            for run in forms[form].values():
                epochs = range(1, len(run["test"]) + 1)
                axes.plot(epochs, run["train"], color=BLUE, linewidth=0.7, alpha=0.6)
                axes.plot(epochs, run["test"], color=ORANGE, linewidth=0.7, alpha=0.6)
            if form in published:
                axes.axhline(published[form][1], color=MUTED, linestyle="--", linewidth=1)
                if place == 0:
                    axes.text(2, published[form][1] + 0.02, "published", fontsize=9, color=MUTED)
            axes.set_title(form, fontsize=10)
            axes.set_ylim(max(0.0, low - 0.03), 1)
            last, left = place + columns >= len(shown), place % columns == 0
            finish(axes, "epoch" if last else "", "accuracy" if left else "", legend=False)
            axes.tick_params(labelbottom=last)
        for text, colour, height in (("training", BLUE, 0.2), ("test", ORANGE, 0.08)):
            grid.flat[0].text(0.97, height, text, color=colour, transform=grid.flat[0].transAxes, ha="right")
        for axes in grid.flat[len(shown) :]:
            axes.set_axis_off()
        return figure

    return draw()
