"""What the norms of many mini-batch gradients say of theory and of what has been published about them."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ..experiment import SHEN, Finding, Result
from ..over_seeds import all_within, show

Cell = tuple[str, int, int]  # moment, batch size, seed

GROWING = (1e-3, math.inf)  # less is rounding
LINEAR = (0.9, 1.1)  # exponents taken as 1
ROUNDING = 1e-4  # relative, of the squares of norms kept to 5 digits


def average(cells: Mapping[Cell, Result], moment: str, name: str) -> float:
    """Over seeds, each counted once."""
    return float(np.mean(list({seed: r[name] for (when, _, seed), r in cells.items() if when == moment}.values())))


def against_theory(runs: Sequence[Result]) -> tuple[float, float]:
    """Mean of ‖g‖² over s + V/b, averaged over runs, and its standard error from the scatter of the draws."""
    known = [(np.square(r["norms"]), r["signal"] + r["variance"] / r["size"]) for r in runs]
    ratios = [squares / theory for squares, theory in known if theory > 0]
    if not ratios:  # every gradient is zero
        return math.nan, math.nan
    errors = [ratio.std(ddof=1) / math.sqrt(len(ratio)) for ratio in ratios]
    return float(np.mean([ratio.mean() for ratio in ratios])), math.hypot(*errors) / len(ratios)


def _slopes(cells: Mapping[Cell, Result], moment: str, kind: str, reduction: str) -> list[float]:
    """Exponent of b in a statistic of the norms, of each seed that has been run at all sizes and has it positive."""
    sizes = sorted({b for when, b, _ in cells if when == moment})
    seeds = {seed for when, _, seed in cells if when == moment}
    slopes = []
    for seed in sorted(seeds):
        runs = [cells[moment, b, seed] for b in sizes if (moment, b, seed) in cells]
        values = [_statistic(run, kind, reduction) for run in runs]
        if len(sizes) == len(runs) >= 2 and min(values) > 0:
            slopes.append(float(np.polyfit(np.log(sizes), np.log(values), 1)[0]))
    return slopes


def _statistic(result: Result, kind: str, reduction: str = "mean") -> float:
    """A number of the norms of one trial, summed over the batch or averaged."""
    norms = np.asarray(result["norms"]) * (result["size"] if reduction == "sum" else 1)
    if kind == "tail":
        middle, far = np.quantile(norms, (0.5, 0.95))
        return float(far / middle) if middle > 0 else 0.0
    return float({"norm": norms.mean(), "square": np.square(norms).mean(), "spread": norms.std()}[kind])


def findings(cells: Mapping[Cell, Result], ratios: Mapping[tuple[str, int], tuple[float, float]]) -> list[Finding]:
    """Every claim and its verdict; `ratios` are those of `against_theory` by moment and size."""

    def exponent(claim: str, published: str, kind: str, reduction: str, claimed: tuple[float, float]) -> Finding:
        slopes = {moment: _slopes(cells, moment, kind, reduction) for moment in ("early", "late")}
        ours = ", ".join(f"{moment} {show(values, 2)}" for moment, values in slopes.items() if values)
        verdict = all_within(list(slopes.values()), claimed)
        return Finding(claim, SHEN, published, f"exponent of b: {ours or 'too few sizes'}", verdict)

    pairs = [(ratio, error) for ratio, error in ratios.values() if math.isfinite(ratio)]
    worst = max(pairs, key=lambda pair: abs(pair[0] - 1) / (pair[1] + ROUNDING), default=(math.nan, math.nan))
    within = [abs(ratio - 1) <= 3 * error + ROUNDING for ratio, error in pairs]
    falls = _falls(cells)
    fall = f"logarithm of early over late {show(falls, 2)}" if falls else "not run at both moments"
    return [
        Finding(
            "at fixed parameters E‖g‖² is s + V/b of the mean over the batch, and bV + b²s of the sum",
            "the variance of a mean",
            "ratio to theory 1 at every size",
            f"ratio {worst[0]:.3f} ± {1.645 * worst[1]:.3f} where it is farthest off for its error",
            "cannot tell" if not within else "agrees" if all(within) else "differs",
        ),
        exponent("the norm grows with the batch size, read as the sum", "it grows", "norm", "sum", GROWING),
        exponent("the norm grows with the batch size, read as the mean", "it grows", "norm", "mean", GROWING),
        exponent("the squared norm is linear in the batch size, read as the sum", "1", "square", "sum", LINEAR),
        exponent("larger batches have norms of larger variance, as the sum", "it grows", "spread", "sum", GROWING),
        exponent("larger batches have norms of larger variance, as the mean", "it grows", "spread", "mean", GROWING),
        exponent("larger batches have heavier tails: 95 % quantile over median", "it grows", "tail", "mean", GROWING),
        Finding(
            "the mean norm is larger early in training than late",
            SHEN,
            "larger after 2 epochs than after 30",
            fall,
            all_within([falls], GROWING),
        ),
    ]


def _falls(cells: Mapping[Cell, Result]) -> list[float]:
    """Logarithm of the mean norm early over that late, averaged over sizes, of each seed run at all of them."""
    pairs: dict[int, dict[int, tuple[float, float]]] = {}
    for moment, b, seed in cells:
        if moment == "early" and ("late", b, seed) in cells:
            early, late = (_statistic(cells[when, b, seed], "norm") for when in ("early", "late"))
            if early > 0 and late > 0:
                pairs.setdefault(seed, {})[b] = early, late
    most = max((len(sizes) for sizes in pairs.values()), default=0)
    return [
        float(np.mean([math.log(early / late) for early, late in sizes.values()]))
        for sizes in pairs.values()
        if len(sizes) == most
    ]
