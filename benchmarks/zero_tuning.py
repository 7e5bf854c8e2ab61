"""Time to a target with nothing tuned, beside the best of tuned grids: `python benchmarks/zero_tuning.py [--write]`.

For every problem the tuned methods run once over their 3 x 3 grids (batch size x learning rate, cosine to zero over a
fixed number of epochs). The hard target is what the best of these 18 runs had reached after 70 % of its time (for
convex problems 1.4 times its final distance to the known optimum), the easy target after 30 % (20 times the hard
distance). Of each grid the two cells that reached the target soonest are then run again, in turn with the methods that
have nothing to tune, over three seeds, and the better is shown. Seconds are processor seconds of one thread,
without evaluation, with everything else.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import schedulefree
import torch
from markdown import machine, write_page
from problems import Problem, problems

import rightbatch

BATCHES = (32, 128, 512)
RATES = {"sgd": (0.02, 0.1, 0.5), "adam": (0.0003, 0.001, 0.005)}
CONVEX_RATES = {"sgd": (0.1, 0.5, 2.5), "adam": (0.002, 0.01, 0.05)}
CHECKS_PER_RUN = 60
AGAIN = 2  # cells of each grid that are run again for each target
LONGEST = 2.0  # runs without a horizon go on for so many times the seconds of the best tuned run


@dataclass
class Curve:
    """What a run reached: (processor seconds, samples, loss)."""

    points: list[tuple[float, int, float]] = field(default_factory=list)

    def reached(self, target: float) -> tuple[float, int]:
        """Seconds and samples to the target; infinity if it never was."""
        for seconds, samples, loss in self.points:
            if loss <= target:
                return seconds, samples
        return math.inf, 10**12

    @property
    def final(self) -> float:
        return self.points[-1][2]

    def at(self, share: float) -> float:
        """The least loss up to `share` of the run's time."""
        limit = share * self.points[-1][0]
        return min(loss for seconds, _, loss in self.points if seconds <= limit)


class Stopwatch:
    """Processor seconds, paused while the run is checked; checks are denser at the start.

    A tuned run has a horizon in samples; a run without one ends after `limit` seconds.
    """

    def __init__(self, samples: int | None = None, limit: float = math.inf) -> None:
        self.curve = Curve()
        self.samples = samples
        self.limit = limit
        self.shares = [((i + 1) / CHECKS_PER_RUN) ** 2 for i in range(CHECKS_PER_RUN)]
        self.spent = 0.0
        self.since = time.process_time()

    def lap(self, samples: int, check: Callable[[], float]) -> bool:
        """Check the run if it is due; False once it is over."""
        now = self.spent + time.process_time() - self.since
        share = now / self.limit if self.samples is None else samples / self.samples
        if share < self.shares[0]:
            return True
        while self.shares and share >= self.shares[0]:
            self.shares.pop(0)
        self.spent = now
        self.curve.points.append((now, samples, check()))
        self.since = time.process_time()
        return bool(self.shares)


def batches(problem: Problem, size: int, seed: int) -> Iterator[torch.Tensor]:
    """Indices of shuffled batches, without end."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(len(problem.x), generator=generator).split(size)


def tuned(problem: Problem, kind: str, batch: int, rate: float, seed: int) -> Curve:
    """SGD with momentum, or Adam, with the learning rate going to zero along a cosine."""
    model = problem.make(seed)
    if kind == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, fused=True)
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=rate, fused=True)
    steps = problem.epochs * math.ceil(len(problem.x) / batch)
    group = optimizer.param_groups[0]
    watch, samples = Stopwatch(problem.epochs * len(problem.x)), 0
    for step, index in enumerate(batches(problem, batch, seed)):
        group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        loss = problem.loss(model(problem.x[index]), problem.y[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        samples += len(index)
        if not watch.lap(samples, lambda: problem.check(model)):
            break
    return watch.curve


def schedule_free(problem: Problem, kind: str, seed: int, limit: float, batch: int = 128) -> Curve:
    """Schedule-Free SGD or AdamW as published, at its defaults."""
    model = problem.make(seed)
    make = schedulefree.SGDScheduleFree if kind == "sgd" else schedulefree.AdamWScheduleFree
    optimizer = make(model.parameters())
    optimizer.train()

    def check() -> float:
        optimizer.eval()
        value = problem.check(model)
        optimizer.train()
        return value

    watch, samples = Stopwatch(limit=limit), 0
    for index in batches(problem, batch, seed):
        loss = problem.loss(model(problem.x[index]), problem.y[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        samples += len(index)
        if not watch.lap(samples, check):
            break
    return watch.curve


def automatic(problem: Problem, seed: int, limit: float, step: object = "auto", batch: object = "auto") -> Curve:
    """Rightbatch with nothing said."""
    model = problem.make(seed)
    watch = Stopwatch(limit=limit)
    auto = rightbatch.AutoBatch(model, None, (problem.x, problem.y), batch_size=batch, lr=step, seed=seed, epochs=10**6)

    def check() -> float:
        with auto.averaged():
            return problem.check(model)

    for x, y in auto:
        loss = problem.loss(model(x), y)
        auto.backward(loss)
        if auto.step() and not watch.lap(auto.samples, check):
            break
    return watch.curve


@dataclass(frozen=True)
class Cell:
    """One tuned setting."""

    kind: str
    batch: int
    rate: float

    def __str__(self) -> str:
        return f"{'SGD-momentum' if self.kind == 'sgd' else 'Adam'}-cosine, batch {self.batch}, lr {self.rate:g}"


def targets(problem: Problem, best: Curve) -> dict[str, float]:
    """The hard and the easy target."""
    if problem.convex:
        gap = 1.4 * (best.final - problem.floor)
        return {"hard": problem.floor + gap, "easy": problem.floor + 20 * gap}
    return {"hard": best.at(0.7), "easy": best.at(0.3)}


def compare(problem: Problem, seeds: int) -> list[str]:
    """The rows of one problem's table."""
    rates = CONVEX_RATES if problem.convex else RATES
    grid = {Cell(kind, b, r): Curve() for kind in rates for b in BATCHES for r in rates[kind]}
    for cell in grid:
        grid[cell] = tuned(problem, cell.kind, cell.batch, cell.rate, 0)
    best = min(grid.values(), key=lambda curve: curve.final if math.isfinite(curve.final) else math.inf)
    aims, limit = targets(problem, best), LONGEST * best.points[-1][0]

    def candidates(kind: str) -> list[Cell]:
        """Of one grid, the cells that reached each target soonest."""
        chosen: set[Cell] = set()
        for aim in aims.values():
            soonest = sorted((grid[c].reached(aim), str(c), c) for c in grid if c.kind == kind)[:AGAIN]
            chosen |= {cell for *_, cell in soonest}
        return sorted(chosen, key=str)

    cells = {kind: candidates(kind) for kind in rates}
    runs: dict[object, list[Curve]] = {}
    for seed in range(seeds):
        for cell in (c for of_kind in cells.values() for c in of_kind):
            runs.setdefault(cell, []).append(tuned(problem, cell.kind, cell.batch, cell.rate, seed))
        runs.setdefault("auto", []).append(automatic(problem, seed, limit))
        for kind in ("sgd", "adamw"):
            runs.setdefault(f"free-{kind}", []).append(schedule_free(problem, kind, seed, limit))
    rows = []
    for name, aim in aims.items():
        best_cells = {}
        for kind in rates:
            best_cells[kind] = min((_medians(runs[c], aim), str(c), c) for c in cells[kind])[-1]
        entries: list[tuple[str, list[Curve]]] = [("**Rightbatch, nothing tuned**", runs["auto"])]
        entries += [(str(best_cells[kind]), runs[best_cells[kind]]) for kind in rates]
        entries += [("Schedule-Free SGD, defaults, batch 128", runs["free-sgd"])]
        entries += [("Schedule-Free AdamW, defaults, batch 128", runs["free-adamw"])]
        medians = [_medians(curves, aim) for _, curves in entries]
        tuned_best = min(seconds for seconds, _ in medians[1:3])
        for (label, curves), (seconds, samples) in zip(entries, medians, strict=True):
            count = sum(c.reached(aim)[0] < math.inf for c in curves)
            ratio = f"{seconds / tuned_best:.2f}" if tuned_best < math.inf else "no tuned run reached it"
            found = f"{seconds:.3f} | {samples:,} | {ratio}" if seconds < math.inf else "not reached | |"
            rows.append(f"| {problem.name} | {name} | {label} | {found} | {count} of {seeds} |")
    return rows


def _medians(curves: list[Curve], aim: float) -> tuple[float, int]:
    reached = [curve.reached(aim) for curve in curves]
    return statistics.median(s for s, _ in reached), int(statistics.median(e for _, e in reached))


def main() -> None:
    """Run and print, or write to docs/."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", nargs="+", default=["a9a", "cod-rna", "fashion-mlp"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="write docs/zero_tuning.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "| problem | target | method | seconds | samples | ratio to best tuned | reached |",
        "|---|---|---|---|---|---|---|",
    ]
    for problem in problems(options.problems):
        rows = compare(problem, options.seeds)
        print("\n".join(rows), flush=True)
        lines += rows
    if options.write:
        write_page(Path("docs/zero_tuning.md"), __doc__, lines, "zero_tuning")
    else:
        print(machine())


if __name__ == "__main__":
    main()
