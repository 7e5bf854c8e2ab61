"""The grid of tuned runs of each problem, and what of it others are measured by."""

import math
import statistics
from dataclasses import dataclass
from functools import cached_property

from .clock import Horizon, Trajectory
from .contestants.grid import GRID
from .problem import problem
from .runs import Job, load, make_all
from .store import Store

FINALISTS = 3  # cells by final loss, and as many by time, that are run on the other seeds
TARGET_AT = 0.7
MISSED = 3.0


def jobs(name: str, cells: list[str], seeds: range) -> list[Job]:
    """Runs of grid cells at the problem's epochs."""
    return [Job(name, cell, seed, Horizon(epochs=problem(name).epochs)) for cell in cells for seed in seeds]


def make_grids(store: Store, problems: list[str], seeds: int, workers: int) -> None:
    """All cells on the first seed; the best by final loss and by time, and the best single cell, on the others."""
    cells = [cell.name for cell in GRID]
    make_all(store, (job for name in problems for job in jobs(name, cells, range(1))), workers)
    if seeds > 1:
        single = single_cell(store, problems)
        others = {name: sorted({*finalists(store, name), single}) for name in problems}
        make_all(store, (job for name in problems for job in jobs(name, others[name], range(1, seeds))), workers)


def _run(store: Store, name: str, cell: str, seed: int) -> Trajectory:
    found = load(store, jobs(name, [cell], range(seed, seed + 1))[0])
    if found is None:
        raise FileNotFoundError(f"The run {cell} of {name}, seed {seed}, is missing: make the grids first.")
    return found


def _first_runs(store: Store, name: str) -> dict[str, Trajectory]:
    return {cell.name: _run(store, name, cell.name, 0) for cell in GRID}


def finalists(store: Store, name: str) -> list[str]:
    """The cells that are best on the first seed, by final loss or by time to what the best had at 70 % of its time."""
    runs = _first_runs(store, name)
    by_loss = sorted(runs, key=lambda cell: runs[cell].valid)
    target = runs[by_loss[0]].least_until(TARGET_AT)
    by_time = sorted(runs, key=lambda cell: (runs[cell].time_to(target), runs[cell].valid))
    return sorted({*by_loss[:FINALISTS], *by_time[:FINALISTS]})


def single_cell(store: Store, problems: list[str]) -> str:
    """The cell that is best over all problems: least geometric mean of its loss over the best cell's, at most 3."""

    def badness(cell: str) -> float:
        logs = []
        for name in problems:
            runs = _first_runs(store, name)
            least = min(run.valid for run in runs.values())
            logs.append(math.log(min(MISSED, runs[cell].valid / least)))
        return statistics.mean(logs)

    return min((cell.name for cell in GRID), key=badness)


@dataclass(frozen=True)
class Tuned:
    """What the best tuned runs of a problem reached, chosen with hindsight; medians over the seeds.

    Args:
        store: holds the grid.
        name: of the problem.
        seeds: how many.
    """

    store: Store
    name: str
    seeds: int

    @cached_property
    def runs(self) -> dict[str, list[Trajectory]]:
        """The runs of the finalists."""
        cells = finalists(self.store, self.name)
        return {cell: [_run(self.store, self.name, cell, seed) for seed in range(self.seeds)] for cell in cells}

    @cached_property
    def best(self) -> str:
        """The cell with the least final validation loss."""
        return min(self.runs, key=lambda cell: statistics.median(run.valid for run in self.runs[cell]))

    @cached_property
    def valid(self) -> float:
        """Its final validation loss."""
        return statistics.median(run.valid for run in self.runs[self.best])

    @cached_property
    def test(self) -> float:
        """Its test loss."""
        return statistics.median(run.test for run in self.runs[self.best])

    @cached_property
    def units(self) -> float:
        """The simulated time of its run."""
        return self.runs[self.best][0].units

    @cached_property
    def target(self) -> float:
        """The validation loss that it had at 70 % of its time."""
        return statistics.median(run.least_until(TARGET_AT) for run in self.runs[self.best])

    @cached_property
    def time(self) -> float:
        """The least time to the target of any cell."""
        return min(statistics.median(run.time_to(self.target) for run in runs) for runs in self.runs.values())
