"""How far parameters come from where they started, in equal examples and in equal steps."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..errors import InputError
from ..ranges import require_number, require_whole
from .experiment import Drawing, Experiment, Finding, Result, Section, Trial, Verdict
from .gradient_norm_claims import SHEN
from .over_seeds import mean_interval, told
from .plain_steps import plain_steps
from .rounding import rounded
from .subject import Subject, everything

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Cell = tuple[int, float, int]  # batch size, learning rate, seed

NEARLY = (-0.1, 0.1)  # exponents taken as 0
FALLING = (-math.inf, -1e-3)
PAST = (0.0, math.inf)


@dataclass(frozen=True)
class StartDistance(Experiment):
    """Train at several batch sizes and rates, plain SGD on the mean loss; follow ‖w - w₀‖ by examples and steps.

    Args:
        sizes: batch sizes, the smallest first.
        rates: learning rates, the same at every size; the first is also scaled linearly, by size over smallest size.
        seeds: of initial parameters and order.
        examples: that each run consumes.
        looks: how often distance and test loss are taken, evenly on the logarithm of the steps.

    Reference: Kevin Shen, "Effect of batch size on training dynamics" (2018), distances on MNIST, where the best
    solutions lay about 6 away from the start.
    """

    sizes: tuple[int, ...] = (64, 256, 1024)
    rates: tuple[float, ...] = (0.01, 0.1)
    seeds: int = 3
    examples: int = 600_000
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
    def steps(self) -> int:
        """That the largest batch takes; all are compared after so many as well."""
        return self.examples // max(self.sizes)

    def scaled(self, size: int) -> float:
        """The first rate, scaled linearly."""
        return self.rates[0] * size / self.sizes[0]

    def trials(self, subject: Subject) -> list[Trial]:
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
            raise InputError(f"StartDistance.sizes are {self.sizes}: give two or more, rising.")
        require_whole("StartDistance.examples", self.examples, least=2 * max(self.sizes))
        runs = {
            f"batch {size}, rate {rate:g}, seed {seed}": {"size": size, "rate": rate, "seed": seed}
            for seed in range(self.seeds)
            for size in self.sizes
            for rate in (*self.rates, self.scaled(size))
        }
        return [Trial(key, settings) for key, settings in runs.items()]

    def run(self, subject: Subject, trial: Trial) -> Result:
        """Train; distance and test loss at the looks, the last step and the one all sizes reach."""
        import torch

        from ..training.distance import Distance
        from ..training.losses import default_loss

        train, test = subject.sources()
        (x, y), (test_x, test_y), loss = everything(train), everything(test), default_loss(train)
        size, rate, seed = (trial.settings[name] for name in ("size", "rate", "seed"))
        model = subject.network(seed)
        parameters = [p for p in model.parameters() if p.requires_grad]
        distance, optimizer = Distance(parameters), torch.optim.SGD(parameters, lr=rate)
        last = self.examples // size
        looks = {self.steps, last, *np.geomspace(1, last, self.looks).round().astype(int).tolist()}
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
        """Distances at equal examples and equal steps, and what they say of the claims."""
        cells: dict[Cell, Result] = {(r["size"], r["rate"], r["seed"]): r for r in results.values()}
        whole = {cell: r for cell, r in cells.items() if _whole(self, r)}
        rows: list[list[str]] = []
        for size, rate in sorted({cell[:2] for cell in cells}, key=lambda pair: pair[::-1]):
            runs = [r for (b, lr, _), r in sorted(whole.items()) if (b, lr) == (size, rate)]
            if not runs:
                rows.append([f"{rate:g}", f"{size:,}", "0", "diverged", "", "", ""])
                continue
            best = [_best(r) for r in runs]
            ways = [self._after(r, self.steps) for r in runs], [r["distances"][-1] for r in runs]
            numbers = *ways, [at for at, _ in best], [loss for _, loss in best]
            rows.append([f"{rate:g}", f"{size:,}", f"{len(runs)}", *(told(values) for values in numbers)])
        paragraphs = [
            f"Plain SGD on the mean loss at learning rates {', '.join(f'{rate:g}' for rate in self.rates)}, and the "
            f"first of them scaled linearly with the batch size. Each run consumes {self.examples:,} examples; after "
            f"{self.steps:,} steps, all that the largest batch takes, all are compared as well. Runs of one seed share "
            "initial parameters. Intervals hold 90 %, over seeds.",
            "At a fixed learning rate the way is paid for in steps: in equal examples a larger batch takes fewer.",
        ]
        drawing = Drawing(
            "start_distance",
            _figure(self, cells),
            "Distance from the initial parameters, of the first seed, against examples (left) and steps (right), a row "
            "for each learning rate; numbers are batch sizes. Dotted: where the smallest batch has its least test loss",
        )
        head = ("rate", "batch size", "runs", f"‖w - w₀‖ after {self.steps:,} steps", "at the end")
        return Section(
            paragraphs, [drawing], (*head, "at least test loss", "least test loss"), rows, self._findings(whole)
        )

    def _after(self, result: Result, step: int) -> float:
        return float(result["distances"][result["steps"].index(step)])

    def _exponents(self, cells: Mapping[Cell, Result], rates: Sequence[float], step: int | None) -> list[float]:
        """Exponent of the batch size in the distance after so many steps, or at the end, of each seed run whole."""
        exponents = []
        for seed in range(self.seeds):
            runs = [cells.get((b, rate, seed)) for b, rate in zip(self.sizes, rates, strict=True)]
            ways = [self._after(r, step or r["steps"][-1]) for r in runs if r is not None]
            if len(ways) == len(self.sizes) and min(ways) > 0:
                exponents.append(float(np.polyfit(np.log(self.sizes), np.log(ways), 1)[0]))
        return exponents

    def _findings(self, cells: Mapping[Cell, Result]) -> list[Finding]:
        fixed = {rate: [rate] * len(self.sizes) for rate in self.rates}
        examples = {rate: self._exponents(cells, rates, None) for rate, rates in fixed.items()}
        steps = {rate: self._exponents(cells, rates, self.steps) for rate, rates in fixed.items()}
        scaled = self._exponents(cells, [self.scaled(size) for size in self.sizes], None)
        found = [
            _exponent("in equal examples large batches stay closer", SHEN, "they do", examples, FALLING),
            _exponent(
                "in equal steps the distance hardly depends on the batch", SHEN, "nearly independent", steps, NEARLY
            ),
            _exponent(
                "in equal examples with linear scaling the distance hardly depends on the batch",
                "the gradient flow that small steps follow",
                "exponent 0",
                {self.rates[0]: scaled},
                NEARLY,
            ),
        ]
        small, large = self.sizes[0], self.sizes[-1]
        for rate, claimed, does in ((self.rates[0], FALLING, "cannot"), (self.rates[-1], PAST, "can")):
            ways = [
                math.log(cells[large, rate, seed]["distances"][-1] / _best(cells[small, self.rates[0], seed])[0])
                for seed in range(self.seeds)
                if (large, rate, seed) in cells and (small, self.rates[0], seed) in cells
            ]
            found.append(
                Finding(
                    f"batch {large:,} at a rate of {rate:g} {does} get as far as the best solution of batch {small:,}",
                    SHEN,
                    f"it {does}, 1,024 on MNIST, with the best about 6 away",
                    f"logarithm of the ratio {told(ways, 2)}" if ways else "not run",
                    _verdict([ways], claimed),
                )
            )
        return found


def _whole(design: StartDistance, result: Result) -> bool:
    return result["steps"][-1] == design.examples // result["size"] and math.isfinite(result["losses"][-1])


def _best(result: Result) -> tuple[float, float]:
    """Distance and test loss where that is least."""
    least = int(np.argmin(np.nan_to_num(result["losses"], nan=math.inf)))
    return result["distances"][least], result["losses"][least]


def _exponent(
    claim: str, source: str, published: str, by_rate: Mapping[float, Sequence[float]], claimed: tuple[float, float]
) -> Finding:
    ours = ", ".join(f"{told(values, 2)} at {rate:g}" for rate, values in by_rate.items() if values)
    verdict = _verdict(list(by_rate.values()), claimed)
    return Finding(claim, source, published, f"exponent of b: {ours}" if ours else "not run", verdict)


def _verdict(groups: Sequence[Sequence[float]], claimed: tuple[float, float]) -> Verdict:
    known = [mean_interval(values) for values in groups]
    if any(interval and (interval[1] < claimed[0] or interval[0] > claimed[1]) for interval in known):
        return "differs"
    within = all(interval and claimed[0] < interval[0] and interval[1] < claimed[1] for interval in known)
    return "agrees" if known and within else "cannot tell"


def _figure(design: StartDistance, cells: Mapping[Cell, Result]) -> "Figure":
    from ..report.drawing import BLUE, ORANGE, finish, log_axis, styled

    @styled
    def draw() -> "Figure":
        from matplotlib.figure import Figure

        first = min(seed for _, _, seed in cells)
        figure = Figure(figsize=(9.5, 2.9 * len(design.rates)), layout="constrained")
        for panels, rate in zip(figure.subplots(len(design.rates), 2, squeeze=False), design.rates, strict=True):
            runs = {b: cells[b, rate, first] for b in design.sizes if (b, rate, first) in cells}
            known = [_best(r)[0] for (b, lr, _), r in cells.items() if (b, lr) == (design.sizes[0], design.rates[0])]
            best = [way for way in known if math.isfinite(way)]
            for axes, unit in zip(panels, ("examples", "steps"), strict=True):
                for shade, (b, run) in enumerate(runs.items()):
                    across = np.array(run["steps"]) * (b if unit == "examples" else 1)
                    colour = {"color": BLUE, "alpha": 0.35 + 0.65 * shade / len(design.sizes)}
                    axes.plot(across, run["distances"], linewidth=1.6, **colour)
                    axes.annotate(
                        f"{b:,}", (across[-1], run["distances"][-1]), (4, 0), textcoords="offset points", va="center"
                    )
                if best:
                    axes.axhline(mean(best), color=ORANGE, linestyle=":")
                axes.set_title(f"rate {rate:g}", fontsize=10)
                if ways := [way for run in runs.values() for way in run["distances"] if 0 < way < math.inf]:
                    top = design.examples if unit == "examples" else design.examples / design.sizes[0]
                    log_axis(axes, "x", design.sizes[0] if unit == "examples" else 1, top * 3, ticks=5)
                    log_axis(axes, "y", min(ways) / 1.3, max(*ways, *best) * 1.5, ticks=5)
                finish(axes, unit, "‖w - w₀‖" if unit == "examples" else "", legend=False)
        return figure

    return draw()
