"""What the distances from the start say of what has been published about them."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..experiment import Finding, Result
from ..gradient_norms.claims import SHEN
from ..over_seeds import all_within, show
from ..subject import Subject

if TYPE_CHECKING:
    from .design import StartDistance

Cell = tuple[int, float, int]  # batch size, learning rate, seed

NEARLY = (-0.1, 0.1)  # exponents taken as 0
FALLING = (-math.inf, -1e-3)
RISING = (1e-3, math.inf)
PAST = (0.0, math.inf)
RECOVERED = (-math.inf, math.log(1.05))  # of a loss: 5 % more is as good
MNIST, WAY, ABOUT = "mnist", 6.0, 1.25  # the folder that holds it; the distance published; "about", as a factor


def best(result: Result) -> tuple[float, float]:
    """Distance and test loss where that is least."""
    least = int(np.argmin(np.nan_to_num(result["losses"], nan=math.inf)))
    return result["distances"][least], result["losses"][least]


def after(result: Result, step: int) -> float:
    """The distance after so many steps."""
    return float(result["distances"][result["steps"].index(step)])


def findings(design: "StartDistance", subject: Subject, cells: Mapping[Cell, Result]) -> list[Finding]:
    """Every claim and its verdict, of the runs that have not diverged."""
    fixed = {rate: [rate] * len(design.sizes) for rate in design.rates}
    samples = {rate: _exponents(design, cells, rates, None) for rate, rates in fixed.items()}
    steps = {rate: _exponents(design, cells, rates, design.steps) for rate, rates in fixed.items()}
    scaled = _exponents(design, cells, [design.scaled(size) for size in design.sizes], None)
    low, high, large = design.rates[0], design.rates[-1], design.sizes[-1]
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
        _about_six(design, subject, cells),
        _way(design, cells, low, "does not get", FALLING),
        _way(design, cells, high, "gets", PAST),
        _loss(design, cells, low, f"batch {large:,} at a rate of {low:g} has a higher least test loss than", RISING),
        _loss(
            design,
            cells,
            design.scaled(large),
            f"raising its rate in proportion, to {design.scaled(large):g}, gives batch {large:,} the test loss of",
            RECOVERED,
        ),
    ]


def _exponents(
    design: "StartDistance", cells: Mapping[Cell, Result], rates: Sequence[float], step: int | None
) -> list[float]:
    """Exponent of the batch size in the distance after so many steps, or at the end, of each seed run whole."""
    exponents = []
    for seed in range(design.seeds):
        runs = [cells.get((b, rate, seed)) for b, rate in zip(design.sizes, rates, strict=True)]
        ways = [after(r, step or r["steps"][-1]) for r in runs if r is not None]
        if len(ways) == len(design.sizes) and min(ways) > 0:
            exponents.append(float(np.polyfit(np.log(design.sizes), np.log(ways), 1)[0]))
    return exponents


def _exponent(
    claim: str, source: str, published: str, by_rate: Mapping[float, Sequence[float]], claimed: tuple[float, float]
) -> Finding:
    ours = ", ".join(f"{show(values, 2)} at {rate:g}" for rate, values in by_rate.items() if values)
    verdict = all_within(list(by_rate.values()), claimed)
    return Finding(claim, source, published, f"exponent of b: {ours}" if ours else "not run", verdict)


def _pairs(design: "StartDistance", cells: Mapping[Cell, Result], rate: float) -> list[tuple[Result, Result]]:
    """The largest batch at this rate beside the smallest at the first, by seed."""
    small, large, low = design.sizes[0], design.sizes[-1], design.rates[0]
    keys = [((large, rate, seed), (small, low, seed)) for seed in range(design.seeds)]
    return [(cells[one], cells[other]) for one, other in keys if one in cells and other in cells]


def _about_six(design: "StartDistance", subject: Subject, cells: Mapping[Cell, Result]) -> Finding:
    small, low = design.sizes[0], design.rates[0]
    ways = [best(cells[small, low, seed])[0] for seed in range(design.seeds) if (small, low, seed) in cells]
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
    design: "StartDistance", cells: Mapping[Cell, Result], rate: float, does: str, claimed: tuple[float, float]
) -> Finding:
    ways = [math.log(run["distances"][-1] / best(beside)[0]) for run, beside in _pairs(design, cells, rate)]
    return Finding(
        f"batch {design.sizes[-1]:,} at a rate of {rate:g} {does} as far as the best solution of batch "
        f"{design.sizes[0]:,} at {design.rates[0]:g}, within {design.samples:,} samples",
        SHEN,
        f"it {does} there: 1,024 on MNIST, the best about 6 away",
        f"logarithm of the ratio of distances {show(ways, 2)}" if ways else "not run",
        all_within([ways], claimed),
    )


def _loss(
    design: "StartDistance", cells: Mapping[Cell, Result], rate: float, claim: str, claimed: tuple[float, float]
) -> Finding:
    values = [math.log(best(run)[1] / best(beside)[1]) for run, beside in _pairs(design, cells, rate)]
    return Finding(
        f"in equal samples {claim} batch {design.sizes[0]:,} at {design.rates[0]:g}",
        SHEN,
        "it does",
        f"logarithm of the ratio of least test losses {show(values, 2)}" if values else "not run",
        all_within([values], claimed),
    )
