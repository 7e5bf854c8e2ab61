"""The schedules compared, in families: a fixed batch whose rate decays, and batches that grow instead."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...errors import DivergedError
from ..experiment import Result, rounded

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from ...data import Source
    from ...decision import BatchSizeRule, LRRule

FAMILIES = ("AdaBatch", "increase", "Seesaw")
ADA_BATCH_STAGES = 5  # of 20 epochs, of 100
ADA_BATCH_DECAY = 0.25  # at a fixed batch
MILESTONES = (0.3, 0.6, 0.8)  # 60, 120 and 160 epochs, of 200
INCREASE = 5.0
MORE_MOMENTUM = 0.98
PLACES = 40  # of a run, at which batch size and rate are kept


@dataclass(frozen=True)
class Arm:
    """A schedule.

    Args:
        name: for tables and figures.
        batch_size: its batch-size rule, or a recipe.
        lr: its lr rule for a tuned rate; beside a recipe, the base rate.
        momentum: of SGD; None is Adam.
    """

    name: str
    batch_size: "BatchSizeRule"
    lr: "Callable[[float], LRRule | float]"
    momentum: float | None

    def optimizer(self, model: "nn.Module", rate: float) -> "Optimizer":
        """Over the model's parameters."""
        import torch

        if self.momentum is None:
            return torch.optim.Adam(model.parameters(), lr=rate)
        return torch.optim.SGD(model.parameters(), lr=rate, momentum=self.momentum)


def arms_of(family: str, size: int, epochs: int, momentum: float, cut: float, samples: int) -> list[Arm]:
    """The fixed batch of a family, then those that grow, but for such as would begin above a tenth of the data.

    Args:
        family: one of `FAMILIES`.
        size: of the fixed batch.
        epochs: of the run.
        momentum: of SGD.
        cut: Seesaw's.
        samples: to train on.
    """
    from ...rules.batch_size import Fixed
    from ...rules.lr import StepDecay
    from ...rules.recipes import AdaBatch, DontDecay, Seesaw

    if family == "AdaBatch":
        every = epochs / ADA_BATCH_STAGES
        stages = tuple(every * k for k in range(1, ADA_BATCH_STAGES))
        return [
            Arm("fixed, rate ÷ 4", Fixed(size), lambda r: StepDecay(r, ADA_BATCH_DECAY, stages), momentum),
            Arm("AdaBatch", AdaBatch(size, every_epochs=every, decay=2 * ADA_BATCH_DECAY), float, momentum),
        ]
    if family == "increase":
        milestones = tuple(epochs * share for share in MILESTONES)

        def grown(name: str, by: int, momentum: float) -> Arm:
            rate = 1 if by == 1 else INCREASE
            return Arm(name, DontDecay(size * by, INCREASE, milestones=milestones), lambda r: r * rate, momentum)

        # The noise goes as ε·N/(b·(1 - m)): the batch makes up for a larger rate, and for more momentum.
        more = round(INCREASE * (1 - momentum) / (1 - MORE_MOMENTUM))
        wanted = [("increased", 1, momentum), ("larger rate", round(INCREASE), momentum)]
        wanted += [("more momentum", more, MORE_MOMENTUM)] if momentum < MORE_MOMENTUM else []
        return [
            Arm("fixed, rate ÷ 5", Fixed(size), lambda r: StepDecay(r, 1 / INCREASE, milestones), momentum),
            *(grown(*each) for each in wanted if 10 * size * each[1] <= samples or each[1] == 1),
        ]
    return [
        # With no room to grow Seesaw takes the whole cut off the rate: a quarter of a cosine, in small steps.
        Arm("fixed, cosine", Fixed(size), lambda r: Seesaw(size, cut, r, max_size=size).lr_rule, None),
        Arm("Seesaw", Seesaw(size, cut), float, None),
    ]


@dataclass
class ScheduledRun:
    """What came of training by a schedule.

    Args:
        whole: whether it came to its end.
        epochs, at_steps, losses, accuracies: at the looks, on the data to evaluate on.
        places, sizes, rates: batch size and rate over the epochs, as scheduled; an epoch's last batch is what is left.
        steps_by_size: how many steps were made of each size.
    """

    whole: bool = False
    epochs: list[float] = field(default_factory=list)
    at_steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    places: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    steps_by_size: dict[int, int] = field(default_factory=dict)

    def keep_place(self, epoch: float, size: int, rate: float) -> None:
        """What the schedule says there."""
        self.places.append(epoch)
        self.sizes.append(size)
        self.rates.append(rate)

    def plain(self) -> Result:
        """To be kept."""
        return {
            "whole": self.whole,
            "steps": sum(self.steps_by_size.values()),
            "epochs": rounded(self.epochs),
            "at_steps": self.at_steps,
            "loss": rounded(self.losses),
            "accuracy": rounded(self.accuracies),
            "places": rounded(self.places),
            "sizes": self.sizes,
            "rates": rounded(self.rates),
        }


def train(
    arm: Arm, model: "nn.Module", data: "Source", other: "Source", rate: float, epochs: int, seed: int, looks: int
) -> ScheduledRun:
    """Train by a schedule, evaluating `looks` times, evenly over the epochs.

    Args:
        arm: the schedule.
        model: trained in place.
        data: to train on.
        other: to evaluate on.
        rate: the first rate.
        epochs: passes over `data`.
        seed: of the order.
        looks: at the end at least.
    """
    import torch

    from ...fitting.evaluation import evaluate
    from ...fitting.losses import default_loss
    from ...loop.auto_batch import AutoBatch

    loss, run, device = default_loss(data), ScheduledRun(), torch.device("cpu")
    auto = AutoBatch(model, arm.optimizer(model, rate), data, arm.batch_size, arm.lr(rate), seed=seed, epochs=epochs)
    due, place = epochs / looks, 0.0
    run.keep_place(0.0, auto.batch_size, auto.lr)
    model.train()
    try:
        for x, y in auto:
            auto.backward(loss(model(x), y))
            if not auto.step():
                continue
            size, now = auto.last["batch_size"], auto.epoch
            run.steps_by_size[size] = run.steps_by_size.get(size, 0) + 1
            if place <= now < epochs:
                run.keep_place(now, auto.batch_size, auto.lr)
                place += epochs / PLACES
            if now >= due - 1e-9:
                found = evaluate(model, loss, other, device)
                run.epochs.append(now)
                run.at_steps.append(auto.steps)
                run.losses.append(found["loss"])
                run.accuracies.append(found["accuracy"])
                if not math.isfinite(found["loss"]):
                    return run
                while due <= now + 1e-9:
                    due += epochs / looks
    except DivergedError:
        return run
    run.whole = True
    return run
