"""How far parameters come from where they started, in equal samples and in equal steps."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...errors import InputError
from ...ranges import require_number, require_whole
from ..experiment import SHEN, Drawing, Experiment, Result, Section, StudyTrial, rounded
from ..over_seeds import show
from ..plain_steps import plain_steps
from ..subject import Subject, everything
from .claims import findings
from .figure import draw_distances
from .results import Cell, DistanceGrid, after, best


@dataclass(frozen=True)
class StartDistance(Experiment):
    """Train at several batch sizes and rates, plain SGD on the mean loss; follow ‖w - w₀‖ by samples and steps.

    Args:
        sizes: batch sizes, the smallest first.
        rates: learning rates, the same at every size; the first is also scaled linearly, by size over smallest size.
        seeds: of initial parameters and order.
        samples: that each run consumes.
        looks: how often distance and test loss are taken, evenly on the logarithm of the steps.

    Reference: Kevin Shen, "Effect of batch size on training dynamics" (2018), distances on MNIST, where the best
    solutions lay about 6 away from the start.
    """

    sizes: tuple[int, ...] = (64, 256, 1024)
    rates: tuple[float, ...] = (0.01, 0.1)
    seeds: int = 3
    samples: int = 600_000
    looks: int = 40

    name: ClassVar[str] = "start-distance"
    title: ClassVar[str] = "The distance from the start"
    question: ClassVar[str] = (
        "Do large batches stay near the initial parameters because they are large, or because they take fewer steps?"
    )
    source: ClassVar[str] = SHEN

    @property
    def classic(self) -> Subject:
        """The digits, with two hidden layers."""
        return Subject("digits", "mlp")

    @property
    def grid(self) -> DistanceGrid:
        """Sizes and rates, and how far each is run."""
        return DistanceGrid(self.sizes, self.rates, self.samples)

    def trials(self, subject: Subject) -> list[StudyTrial]:
        """One run for each size, rate and seed: all sizes and rates with the first seed first.

        Raises:
            InputError: a setting is out of its range.
        """
        require_whole("StartDistance.seeds", self.seeds, least=1)
        require_whole("StartDistance.looks", self.looks, least=2)
        for size in self.sizes:
            require_whole("StartDistance.sizes", size, least=1)
        for rate in self.rates:
            require_number("StartDistance.rates", rate, above=0)
        if len(self.sizes) < 2 or list(self.sizes) != sorted(set(self.sizes)):
            raise InputError(f"StartDistance.sizes are {self.sizes}: give two or more, in increasing order.")
        require_whole("StartDistance.samples", self.samples, least=2 * max(self.sizes))
        runs = {
            f"batch {size}, rate {rate:g}, seed {seed}": {"size": size, "rate": rate, "seed": seed}
            for seed in range(self.seeds)
            for size in self.sizes
            for rate in (*self.rates, self.grid.scaled(size))
        }
        return [StudyTrial(key, settings) for key, settings in runs.items()]

    def run(self, subject: Subject, trial: StudyTrial) -> Result:
        """Train; distance and test loss at the looks, the last step and the one all sizes reach."""
        import torch

        from ...fitting.losses import default_loss
        from ...loop.distance import Distance

        train, test = subject.sources()
        (x, y), (test_x, test_y), loss = everything(train), everything(test), default_loss(train)
        size, rate, seed = (trial.settings[name] for name in ("size", "rate", "seed"))
        model = subject.network(seed)
        parameters = [p for p in model.parameters() if p.requires_grad]
        distance, optimizer = Distance(parameters), torch.optim.SGD(parameters, lr=rate)
        last = self.samples // size
        looks = {self.grid.steps, last, *np.geomspace(1, last, self.looks).round().astype(int).tolist()}
        steps, distances, losses = [], [], []
        for step in plain_steps(model, loss, x, y, size, optimizer, seed):
            over = step.number == last or not math.isfinite(step.loss)
            if over or step.number in looks:
                with torch.no_grad():
                    losses.append(loss(model.eval()(test_x), test_y).item())
                steps.append(step.number)
                distances.append(distance.measure())
            if over:
                break
        return {**trial.settings, "steps": steps, "distances": rounded(distances), "losses": rounded(losses)}

    def section(self, subject: Subject, results: Mapping[str, Result]) -> Section:
        """Distances at equal samples and equal steps, and what they say of the claims."""
        cells: dict[Cell, Result] = {(r["size"], r["rate"], r["seed"]): r for r in results.values()}
        whole = {cell: r for cell, r in cells.items() if self._is_whole(r)}
        rows: list[list[str]] = []
        for size, rate in sorted({cell[:2] for cell in cells}, key=lambda pair: pair[::-1]):
            runs = [r for (b, lr, _), r in sorted(whole.items()) if (b, lr) == (size, rate)]
            if not runs:
                rows.append([f"{rate:g}", f"{size:,}", "0", "diverged", "", "", ""])
                continue
            ways = [after(r, self.grid.steps) for r in runs], [r["distances"][-1] for r in runs]
            numbers = *ways, *zip(*(best(r) for r in runs), strict=True)
            rows.append([f"{rate:g}", f"{size:,}", f"{len(runs)}", *(show(values) for values in numbers)])
        paragraphs = [
            f"Plain SGD on the mean loss at learning rates {', '.join(f'{rate:g}' for rate in self.rates)}, and the "
            f"first of them scaled linearly with the batch size. Each run consumes {self.samples:,} samples; after "
            f"{self.grid.steps:,} steps, all that the largest batch takes, all are compared as well. Runs of one seed "
            "share initial parameters. Intervals hold 90 %, over seeds.",
            "At a fixed learning rate the way is paid for in steps: in equal samples a larger batch takes fewer.",
        ]
        drawing = Drawing(
            "start_distance",
            draw_distances(self.grid, cells),
            "Distance from the initial parameters, of the first seed, against samples (left) and steps (right), a row "
            "for each learning rate; numbers are batch sizes. Dotted: where the smallest batch has its least test loss",
        )
        head = ("rate", "batch size", "runs", f"‖w - w₀‖ after {self.grid.steps:,} steps", "at the end")
        return Section(
            paragraphs,
            [drawing],
            (*head, "at least test loss", "least test loss"),
            rows,
            findings(self.grid, subject, whole),
        )

    def _is_whole(self, result: Result) -> bool:
        return result["steps"][-1] == self.samples // result["size"] and math.isfinite(result["losses"][-1])
