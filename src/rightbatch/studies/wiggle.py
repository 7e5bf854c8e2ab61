"""How much the loss of a mini-batch wiggles, and that this is what theory says."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..errors import InputError
from ..ranges import require_whole
from .experiment import Drawing, Experiment, Finding, Result, Section, StudyTrial, rounded
from .plain_steps import plain_steps
from .subject import Subject, everything

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FULL = 0  # stands for all the data
VARIANCE_SAMPLES = 1000  # samples at most whose losses give σ²


@dataclass(frozen=True)
class Wiggle(Experiment):
    """Train at several batch sizes with one learning rate; record each batch's loss beside the loss over all data.

    The loss of a batch of b samples drawn from N is the mean of b of the N losses, so that about the loss over all
    data at the same parameters it scatters with variance σ²/b · (N - b)/N, σ² the variance of one sample's loss,
    the sum of squares over N - 1. A batch that reaches over the end of an epoch is two such draws.

    Args:
        sizes: batch sizes; 0 is all the data.
        seeds: of initial parameters and order.
        steps: of each run.
        rate: learning rate of plain SGD.
        looks: at how many of the steps the loss over all data is taken.
    """

    sizes: tuple[int, ...] = (1, 8, 32, 128, FULL)
    seeds: int = 3
    steps: int = 300
    rate: float = 0.1
    looks: int = 100

    name: ClassVar[str] = "wiggle"
    title: ClassVar[str] = "The wiggle of the loss"
    question: ClassVar[str] = (
        "The loss of mini-batches fluctuates from step to step. By how much at each batch size, and does sampling "
        "explain all of it?"
    )
    source: ClassVar[str] = "courses on mini-batch gradient descent, and the variance of a mean"

    @property
    def classic(self) -> Subject:
        """The digits."""
        return Subject("digits", "mlp")

    def trials(self, subject: Subject) -> list[StudyTrial]:
        """One run for each size and seed, all sizes with the first seed first."""
        for name in ("seeds", "steps", "looks"):
            require_whole(f"Wiggle.{name}", getattr(self, name), least=1)
        n = len(subject.sources()[0])
        if max(self.sizes) > n:
            raise InputError(
                f"Wiggle.sizes go up to {max(self.sizes)}, but there are {n} samples: give at most {n}, or 0."
            )
        return [
            StudyTrial(f"batch {size or 'full'}, seed {seed}", {"size": size, "seed": seed})
            for seed in range(self.seeds)
            for size in self.sizes
        ]

    def run(self, subject: Subject, trial: StudyTrial) -> Result:
        """Train; at evenly spaced steps compare the batch's loss with that over all data, in units of its theory."""
        import torch

        from ..fitting.losses import default_loss

        train, _ = subject.sources()
        x, y = everything(train)
        n, seed = len(x), int(trial.settings["seed"])
        b = int(trial.settings["size"]) or n
        loss, model = default_loss(train), subject.network(seed)
        optimizer = torch.optim.SGD(model.parameters(), lr=self.rate)
        steps = plain_steps(model, loss, x, y, b, optimizer, seed)
        looks = set(np.linspace(0, self.steps - 1, min(self.looks, self.steps)).astype(int).tolist())
        losses, apart, expected = [], [], []
        for number in range(self.steps):
            if number not in looks:
                losses.append(next(steps).loss)
                continue
            with torch.no_grad():
                output = model(x)
                some = range(0, n, -(-n // VARIANCE_SAMPLES))
                each = torch.stack([loss(output[i : i + 1], y[i : i + 1]) for i in some]).double()
                whole = loss(output, y).item()
            losses.append(next(steps).loss)
            apart.append(losses[-1] - whole)
            first = min(b, n - number * b % n)  # samples before the epoch ends
            drawn = sum(part * (n - part) / n for part in (first, b - first))
            expected.append(math.sqrt(each.var().item() * drawn) / b)
        curves = {"losses": losses, "apart": apart, "expected": expected}
        return {"samples": b, **{name: rounded(curve) for name, curve in curves.items()}}

    def section(self, subject: Subject, results: Mapping[str, Result]) -> Section:
        """The curves, and the scatter held against theory."""
        by_size: dict[int, list[Result]] = {}
        for result in results.values():
            by_size.setdefault(int(result["samples"]), []).append(result)
        rows, pulls = [], {}
        n = len(subject.sources()[0])
        for b, runs in sorted(by_size.items()):
            apart = np.concatenate([run["apart"] for run in runs])
            theory = np.concatenate([run["expected"] for run in runs])
            seen, told = float(np.sqrt(np.mean(apart**2))), float(np.sqrt(np.mean(theory**2)))
            if b < n:
                pulls[b] = (seen / told, 1 / math.sqrt(2 * len(apart)))
            ratio = f"{seen / told:.2f} ± {1.645 * pulls[b][1]:.2f}" if b in pulls else "no scatter"
            rows.append((f"{b:,}" if b < n else f"{b:,}, all", f"{len(runs)}", f"{seen:.3g}", f"{told:.3g}", ratio))
        within = [abs(ratio - 1) <= 3 * error for ratio, error in pulls.values()]
        finding = Finding(
            "a batch's loss scatters about the loss over all data with variance σ²/b · (1 - b/N)",
            "the variance of a mean of b of N numbers",
            "ratio of scatter to theory 1",
            ", ".join(f"{ratio:.2f} at {b:,}" for b, (ratio, _) in pulls.items()),
            "cannot tell" if not within else "agrees" if all(within) else "differs",
        )
        paragraphs = [
            f"Plain SGD with a learning rate of {self.rate:g}, {self.steps} steps, on {n:,} samples. The curves show "
            "the loss of each batch as a training loop prints it; batches follow the order of the epochs, each of "
            "which has every sample once.",
            "Theory is the choice of the samples and nothing else: at the same parameters the loss of a batch lies "
            "about the loss over all data as far as the variance of a mean allows. All data have no wiggle. A curve "
            "that wiggles says nothing by itself of the learning rate being too large.",
        ]
        return Section(
            paragraphs,
            [
                Drawing(
                    "wiggle",
                    _figure(by_size, n),
                    "The loss of each batch over the steps, a panel for each size, and its scatter beside theory",
                )
            ],
            ("batch size", "runs", "scatter of the loss", "theory", "ratio, 90 %"),
            rows,
            [finding],
        )


def _figure(by_size: dict[int, list[Result]], n: int) -> "Figure":
    from ..report.drawing import BLUE, ORANGE, finish, linear_axis, log_axis, styled

    @styled
    def draw() -> "Figure":
        from matplotlib.figure import Figure

        sizes = sorted(by_size)
        figure = Figure(figsize=(10, 3.2), layout="constrained")
        panels = figure.subplots(1, len(sizes) + 1, width_ratios=[1] * len(sizes) + [1.5])
        top = max(max(by_size[b][0]["losses"][:5]) for b in sizes) * 1.15
        for axes, b in zip(panels, sizes, strict=False):
            axes.plot(by_size[b][0]["losses"], color=BLUE, linewidth=0.8)
            axes.set_ylim(0, top)
            axes.set_title(f"batch {b:,}" if b < n else f"all {b:,}", fontsize=10)
            finish(axes, "step", "loss of the batch" if b == sizes[0] else "", legend=False)
            linear_axis(axes, "x", ticks=2)
            if b != sizes[0]:
                axes.set_yticklabels([])
        last, part = panels[-1], [b for b in sizes if b < n]
        if part:
            theory = [np.sqrt(np.mean(np.concatenate([r["expected"] for r in by_size[b]]) ** 2)) for b in part]
            seen = [np.sqrt(np.mean(np.concatenate([r["apart"] for r in by_size[b]]) ** 2)) for b in part]
            last.plot(part, theory, color=ORANGE, label="theory")
            last.plot(part, seen, "o", color=BLUE, label="seen")
            log_axis(last, "x", min(part) / 1.5, max(part) * 1.5, ticks=4)
            log_axis(last, "y", min(*theory, *seen) / 1.5, max(*theory, *seen) * 1.5)
            finish(last, "batch size", "scatter of the loss")
        return figure

    return draw()
