"""The results of the experiment on interpolation by problem, seed and size, and where they bend."""

import math
from collections.abc import Iterable, Mapping

import numpy as np

from ..experiment import Result
from .problems import FULL

Problem = tuple[str, int]  # name, samples
BySize = Mapping[int, Result]


class Regimes:
    """The results by problem, seed and size, and what is measured from them."""

    def __init__(self, results: Iterable[Result]) -> None:
        self._cells: dict[Problem, dict[int, dict[int, Result]]] = {}
        for result in results:
            seeds = self._cells.setdefault((result["problem"], result["samples"]), {})
            every = result["samples"] if result["problem"] == "network" else FULL  # a network has batches up to all
            seeds.setdefault(result["seed"], {})[result["size"] or every] = result

    def problems(self, kind: str = "") -> list[Problem]:
        """All of them, or those of one name; the linear ones for "linear"."""
        every = list(self._cells)
        if kind == "linear":
            return [each for each in every if each[0] != "network"]
        return sorted(each for each in every if each[0] == kind) if kind else every

    def runs(self, problem: Problem) -> list[BySize]:
        """By size, one for each seed."""
        return [self._cells[problem][seed] for seed in sorted(self._cells[problem])]

    def steps(self, problem: Problem, size: int) -> list[float]:
        """At the best rate, of every seed that arrived."""
        return [run[size]["steps"] for run in self.runs(problem) if size in run and run[size]["steps"]]

    def sizes(self, problem: Problem) -> list[int]:
        """Batch sizes at which a run arrived, in rising order; gradient descent aside."""
        every = {size for run in self.runs(problem) for size in run}
        return [size for size in sorted(every - {FULL}) if self.steps(problem, size)]

    def predicted(self, problem: Problem) -> list[float]:
        """m* of the theory, of every seed."""
        return [next(iter(run.values()))["critical"] for run in self.runs(problem)]

    def of_one_step(self, problem: Problem) -> list[float]:
        """m* measured on the worst error of one step, of every seed."""
        return _known(bend({m: r["step_rate"] for m, r in run.items() if m != FULL}) for run in self.runs(problem))

    def of_whole_runs(self, problem: Problem) -> list[float]:
        """m* measured by the steps to the accuracy, of every seed."""
        return _known(fitted({m: r["steps"] for m, r in run.items() if r["steps"]}) for run in self.runs(problem))

    def savings(self, problem: Problem) -> list[float]:
        """Samples that gradient descent looks at, over those of batch 1, of every seed."""
        return [problem[1] * b / a for a, b in self.pairs(problem, 1, FULL)]

    def pairs(self, problem: Problem, first: int, second: int) -> list[tuple[float, float]]:
        """Steps at two sizes, of every seed that has both."""
        return [
            (run[first]["steps"], run[second]["steps"])
            for run in self.runs(problem)
            if all(size in run and run[size]["steps"] for size in (first, second))
        ]

    def network_arrives(self) -> bool:
        """Whether the network fitted its samples in every trial."""
        return all(
            r["steps"] for problem in self.problems("network") for run in self.runs(problem) for r in run.values()
        )


def bend(rates: Mapping[int, float]) -> float:
    """Where m/η, two straight lines over m, bends: nan with fewer than four sizes.

    Every split of the sizes into two is tried, the lines fitted to either side with equal relative errors.
    """
    sizes = sorted(rates)
    m, y = np.array(sizes, float), np.array([size / rates[size] for size in sizes])
    best, found = math.inf, math.nan
    for split in range(2, len(sizes) - 1):
        parts = slice(None, split), slice(split, None)
        lines = [np.polyfit(m[part], y[part], 1, w=1 / y[part]) for part in parts]
        wrong = sum(
            float(np.square(np.polyval(line, m[part]) / y[part] - 1).sum())
            for line, part in zip(lines, parts, strict=True)
        )
        if wrong < best and lines[0][0] != lines[1][0]:
            best, found = wrong, float((lines[0][1] - lines[1][1]) / (lines[1][0] - lines[0][0]))
    return found


def fitted(steps: Mapping[int, float]) -> float:
    """m* of the theory's curve that is nearest to the steps, in the squared logarithm; nan with fewer than four sizes.

    For λ_k far below λ₁ steps fall as 1/m up to m* = c + 1, and beyond as (c + m - 1)²/(4c·m·(m - 1)).
    """
    if len(steps) < 4:
        return math.nan
    m = np.array([size if size != FULL else 1e12 for size in steps])
    logs = np.log(np.array(list(steps.values())))
    c = np.geomspace(0.1, 1e5, 2000)[:, None]
    with np.errstate(divide="ignore"):
        worth = np.where(m <= c + 1, np.log(m), np.log(4 * c * m * (m - 1)) - 2 * np.log(c + m - 1))
    apart = logs + worth
    return float(c[np.argmin(apart.var(axis=1)), 0] + 1)


def _known(values: Iterable[float]) -> list[float]:
    return [value for value in values if math.isfinite(value) and value > 0]
