"""Stochastic, mini-batch and batch gradient descent on three blobs, and what the automatic mode does there."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...errors import InputError
from ...models import build_model
from ...ranges import require_number, require_whole
from ..experiment import Drawing, Experiment, Result, Section, StudyTrial, rounded
from ..over_seeds import show
from ..subject import Subject, everything
from .claims import (
    AUTOMATIC,
    EARLY_SHARE,
    FULL,
    PUBLISHED,
    Forms,
    early,
    findings,
    form_name,
    updates_text,
    volatility,
)
from .figure import draw_forms
from .one_hidden_layer import OneHiddenLayer

if TYPE_CHECKING:
    from torch import nn

    from ...data import Source

UNITS = 50
BROWNLEE = "J. Brownlee, How to Control the Stability of Training Neural Networks With the Batch Size (2019)"


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
    """Train by SGD with momentum on one sample, some, or all of them a step; look at both accuracies at every epoch.

    The forms differ in the size alone, the last batch of an epoch being what is left. `batch_size="auto", lr="auto"`
    stands beside them, from its own first batch and from a batch of 1.

    Args:
        sizes: batch sizes at `rate`; 0 is all the data.
        rate: learning rate.
        low_rate: learning rate that batch 1 is also given.
        momentum: of SGD.
        epochs: of each run.
        seeds: of initial parameters and order; the data are the same throughout.
        automatic_seeds: of the two automatic forms, about which thousandths decide.
    """

    sizes: tuple[int, ...] = (FULL, 1, 32, 4, 8, 16, 64, 128, 256, 450)
    rate: float = 0.01
    low_rate: float = 0.001
    momentum: float = 0.9
    epochs: int = 200
    seeds: int = 5
    automatic_seeds: int = 20

    name: ClassVar[str] = "forms"
    title: ClassVar[str] = "Stochastic, mini-batch, batch"
    question: ClassVar[str] = (
        "One sample per step, a mini-batch, or the full batch, for the same number of epochs: which learns fast, which "
        "is steady, and is there a choice without tuning?"
    )
    source: ClassVar[str] = BROWNLEE

    @property
    def classic(self) -> Subject:
        """Three overlapping blobs in the plane, 500 points to train on and 500 to test on; 50 ReLU units."""
        return Subject("three-blobs", f"{__name__}:{relu_50.__name__}")

    def trials(self, subject: Subject) -> list[StudyTrial]:
        """One run for each form and seed, all forms with the first seed first; sizes above the data are omitted."""
        for name in ("seeds", "automatic_seeds", "epochs"):
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
        named = [(form_name(size, rate), each) for (size, rate), each in zip(forms, settings, strict=True)]
        automatic = [(name, {"batch": batch}) for name, batch in AUTOMATIC.items()]
        return [
            StudyTrial(f"{name}, seed {seed}", {"form": name, "seed": seed, **each})
            for seed in range(max(self.seeds, self.automatic_seeds))
            for arms, seeds in ((named, self.seeds), (automatic, self.automatic_seeds))
            for name, each in arms
            if seed < seeds
        ]

    def run(self, subject: Subject, trial: StudyTrial) -> Result:
        """Train; give both accuracies at the end of every epoch, and the updates made."""
        train, test = subject.sources()
        assert train.classes is not None  # `trials` has seen to it
        model = build_model(subject.model, train.x_shape, train.classes, int(trial.settings["seed"]))
        curves: Curves = {"train": [], "test": []}
        way = self._automatic if "batch" in trial.settings else self._fixed
        updates = way(model, train, test, trial, curves)
        kept = {part: rounded(accuracies) for part, accuracies in curves.items()}
        return {"form": trial.settings["form"], "seed": trial.settings["seed"], "updates": updates, **kept}

    def _fixed(self, model: "nn.Module", train: "Source", test: "Source", trial: StudyTrial, curves: "Curves") -> int:
        import torch

        from ...data import Order
        from ...fitting.losses import default_loss

        x, y = everything(train)
        n, rate = len(x), float(trial.settings["rate"])
        b, order, loss = int(trial.settings["size"]) or n, Order(n, int(trial.settings["seed"])), default_loss(train)
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=self.momentum)
        by_hand = OneHiddenLayer.copy(model)
        for epoch in range(self.epochs):
            # No `plain_steps`, whose batches are all whole: the published runs end an epoch with what is left of it.
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
            _look(model, train, test, curves)
        return self.epochs * -(-n // b)

    def _automatic(
        self, model: "nn.Module", train: "Source", test: "Source", trial: StudyTrial, curves: "Curves"
    ) -> int:
        from ...fitting.losses import default_loss
        from ...loop import AutoBatch

        loss, seed = default_loss(train), int(trial.settings["seed"])
        auto = AutoBatch(model, None, train, str(trial.settings["batch"]), "auto", seed=seed, epochs=self.epochs)
        for x, y in auto:
            auto.backward(loss(model(x), y))
            if auto.step():
                with auto.averaged():
                    while len(curves["test"]) < int(auto.epoch):
                        _look(model, train, test, curves)
        with auto.averaged():
            while len(curves["test"]) < self.epochs:
                _look(model, train, test, curves)
        return auto.steps

    def section(self, subject: Subject, results: Mapping[str, Result]) -> Section:
        """The curves, their ends, and the published figures beside them."""
        forms: Forms = {}
        for result in results.values():
            forms.setdefault(str(result["form"]), {})[int(result["seed"])] = result
        classic = subject == self.classic and all(
            getattr(self, name) == getattr(BatchForms, name) for name in ("rate", "low_rate", "momentum", "epochs")
        )
        published = {form_name(*key): value for key, value in PUBLISHED.items()} if classic else {}
        rows = [
            (
                form,
                f"{len(runs)}",
                updates_text(runs),
                *(show([run[part][-1] for run in runs.values()]) for part in ("train", "test")),
                show([early(run) for run in runs.values()]),
                show([volatility(run) for run in runs.values()], digits=4),
            )
            for form, runs in forms.items()
        ]
        head = ("form", "runs", "updates", "training accuracy", "test accuracy", "early", "volatility")
        paragraphs = [
            f"SGD with a momentum of {self.momentum:g} on {len(subject.sources()[0]):,} samples for {self.epochs:,} "
            "epochs; accuracies are those of the model at the end of an epoch. Seeds differ in initial parameters and "
            "order; data and division are the same in all. Early: mean training accuracy of the first "
            f"{max(1, self.epochs // EARLY_SHARE):,} epochs. Volatility: mean change of the test accuracy from one "
            "epoch to the next, over the second half. The last batch of an epoch is what is left: of 500 samples 450 "
            "leave 50, a small batch at full weight. Intervals hold 90 % by Student's t over the seeds.",
            "Automatic is lr='auto', batch_size='auto' and nothing else, and the same with a first batch of 1; it has "
            "no learning rate to start badly from. It answers with averaged parameters, which is why its curves are "
            "smooth. Its batch depends on the seconds a step takes, so that another machine sees other curves.",
        ]
        if published:
            paragraphs.append(
                "The published figures are of single runs, so they are held against where one further run of ours "
                "would lie (90 %), not against our mean. A wide interval agrees with much: there, one run shows little."
            )
        drawings = []
        compared = [form for form in (*(form_name(*key) for key in PUBLISHED), *AUTOMATIC) if form in forms]
        if compared:
            about = "Accuracy over the epochs by form, a line for each seed: blue on training data, orange on test data"
            about += "; dashed, the published test accuracy" if published else ""
            drawings.append(Drawing("forms", draw_forms(forms, compared, published), about))
        sweep = [form_name(size, self.rate) for size in self._sweep if form_name(size, self.rate) in forms]
        if len(sweep) > 1:
            about = f"The same at a learning rate of {self.rate:g}, from the smallest batch to the largest"
            drawings.append(Drawing("sweep", draw_forms(forms, sweep, {}), about))
        return Section(
            paragraphs, drawings, head, rows, findings(forms, self._sweep, self.rate, self.low_rate, published)
        )

    @property
    def _sweep(self) -> list[int]:
        """Sizes that the claims about small and large are judged by; batch 1 and all the data are told apart."""
        return sorted(size for size in self.sizes if size > 1)


Curves = dict[str, list[float]]  # accuracies at the ends of epochs, on training and on test data


def _look(model: "nn.Module", train: "Source", test: "Source", curves: Curves) -> None:
    from ...fitting.evaluation import evaluating

    with evaluating(model):
        for part, source in (("train", train), ("test", test)):
            x, y = everything(source)
            curves[part].append(float((model(x).argmax(1) == y).double().mean()))
