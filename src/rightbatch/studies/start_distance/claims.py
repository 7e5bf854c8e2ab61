"""What the distances from the start say of what has been published about them."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..experiment import SHEN, Finding, Result
from ..over_seeds import all_within, show
from ..subject import Subject
from .results import Cell, DistanceGrid, after, best, seeds_of

NEARLY = (-0.1, 0.1)  # exponents taken as 0
FALLING = (-math.inf, -1e-3)
RISING = (1e-3, math.inf)
PAST = (0.0, math.inf)
RECOVERED = (-math.inf, math.log(1.05))  # of a loss: 5 % more is as good
MNIST, WAY, ABOUT = "mnist", 6.0, 1.25  # the folder that holds it; the distance published; "about", as a factor


def findings(grid: DistanceGrid, subject: Subject, cells: Mapping[Cell, Result]) -> list[Finding]:
    """Every claim and its verdict, of the runs that have not diverged."""
    fixed = {rate: [rate] * len(grid.sizes) for rate in grid.rates}
    samples = {rate: _exponents(grid, cells, rates, None) for rate, rates in fixed.items()}
    steps = {rate: _exponents(grid, cells, rates, grid.steps) for rate, rates in fixed.items()}
    scaled = _exponents(grid, cells, [grid.scaled(size) for size in grid.sizes], None)
    low, high, large = grid.rates[0], grid.rates[-1], grid.sizes[-1]
    return [
        _exponent("in equal samples large batches stay closer", SHEN, "they do", samples, FALLING),
        _exponent("in equal steps the distance hardly depends on the batch", SHEN, "nearly independent", steps, NEARLY),
        _exponent(
            "in equal samples with linear scaling the distance hardly depends on the batch",
            "the gradient flow that small steps follow",
            "exponent 0",
            {low: scaled},
            NEARLY,
        ),
        _about_six(grid, subject, cells),
        _way(grid, cells, low, "does not get", FALLING),
        _way(grid, cells, high, "gets", PAST),
        _loss(grid, cells, low, f"batch {large:,} at a rate of {low:g} has a higher least test loss than", RISING),
        _loss(
            grid,
            cells,
            grid.scaled(large),
            f"raising its rate in proportion, to {grid.scaled(large):g}, gives batch {large:,} the test loss of",
            RECOVERED,
        ),
    ]


def _exponents(
    grid: DistanceGrid, cells: Mapping[Cell, Result], rates: Sequence[float], step: int | None
) -> list[float]:
    """Exponent of the batch size in the distance after so many steps, or at the end, of each seed run whole."""
    exponents = []
    for seed in seeds_of(cells):
        runs = [cells.get((b, rate, seed)) for b, rate in zip(grid.sizes, rates, strict=True)]
        ways = [after(r, step or r["steps"][-1]) for r in runs if r is not None]
        if len(ways) == len(grid.sizes) and min(ways) > 0:
            exponents.append(float(np.polyfit(np.log(grid.sizes), np.log(ways), 1)[0]))
    return exponents


def _exponent(
    claim: str, source: str, published: str, by_rate: Mapping[float, Sequence[float]], claimed: tuple[float, float]
) -> Finding:
    ours = ", ".join(f"{show(values, 2)} at {rate:g}" for rate, values in by_rate.items() if values)
    verdict = all_within(list(by_rate.values()), claimed)
    return Finding(claim, source, published, f"exponent of b: {ours}" if ours else "not run", verdict)


def _pairs(grid: DistanceGrid, cells: Mapping[Cell, Result], rate: float) -> list[tuple[Result, Result]]:
    """The largest batch at this rate beside the smallest at the first, by seed."""
    small, large, low = grid.sizes[0], grid.sizes[-1], grid.rates[0]
    keys = [((large, rate, seed), (small, low, seed)) for seed in seeds_of(cells)]
    return [(cells[one], cells[other]) for one, other in keys if one in cells and other in cells]


def _about_six(grid: DistanceGrid, subject: Subject, cells: Mapping[Cell, Result]) -> Finding:
    small, low = grid.sizes[0], grid.rates[0]
    ways = [best(cells[small, low, seed])[0] for seed in seeds_of(cells) if (small, low, seed) in cells]
    verdict = all_within([[math.log(way / WAY) for way in ways if way > 0]], (-math.log(ABOUT), math.log(ABOUT)))
    ours = f"least test loss of batch {small:,} at {low:g} at {show(ways, 2)}" if ways else "not run"
    if Path(subject.data).name != MNIST:
        verdict, ours = "cannot tell", f"{subject.data} is not MNIST; {ours}"
    return Finding(
        "the best solutions of an MLP with two hidden layers on MNIST lie about 6 from the start",
        SHEN,
        "about 6; the width is not known to us",
        ours,
        verdict,
    )


def _way(
    grid: DistanceGrid, cells: Mapping[Cell, Result], rate: float, does: str, claimed: tuple[float, float]
) -> Finding:
    ways = [math.log(run["distances"][-1] / best(beside)[0]) for run, beside in _pairs(grid, cells, rate)]
    return Finding(
        f"batch {grid.sizes[-1]:,} at a rate of {rate:g} {does} as far as the best solution of batch "
        f"{grid.sizes[0]:,} at {grid.rates[0]:g}, within {grid.samples:,} samples",
        SHEN,
        f"it {does} there: 1,024 on MNIST, the best about 6 away",
        f"logarithm of the ratio of distances {show(ways, 2)}" if ways else "not run",
        all_within([ways], claimed),
    )


def _loss(
    grid: DistanceGrid, cells: Mapping[Cell, Result], rate: float, claim: str, claimed: tuple[float, float]
) -> Finding:
    values = [math.log(best(run)[1] / best(beside)[1]) for run, beside in _pairs(grid, cells, rate)]
    return Finding(
        f"in equal samples {claim} batch {grid.sizes[0]:,} at {grid.rates[0]:g}",
        SHEN,
        "it does",
        f"logarithm of the ratio of least test losses {show(values, 2)}" if values else "not run",
        all_within([values], claimed),
    )
