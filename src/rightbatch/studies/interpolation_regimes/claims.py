"""What the trials on interpolation say of each claim of the theory."""

import math
from collections.abc import Callable, Sequence
from statistics import mean

import numpy as np

from ..experiment import Finding, Result
from ..over_seeds import show, show_factor, within
from .problems import FULL
from .results import Problem, Regimes

INTERPOLATION = "S. Ma, R. Bassily, M. Belkin, The Power of Interpolation (ICML 2018)"
CLOSE = 0.1  # of an exponent, or of the logarithm of a ratio: what counts as equal
NEARLY = math.log(2)  # of a ratio called nearly 1


def rows(regimes: Regimes) -> list[list[str]]:
    """A line of the table for each problem."""
    table = []
    for problem in regimes.problems():
        name, n = problem
        whole = _told(regimes.of_whole_runs(problem), 1)
        if name == "network":
            table.append([name, f"{n:,}", f"{len(regimes.runs(problem))}", "", "", whole, "", ""])
            continue
        dearer = [r["steps_at_rate"] / r["steps"] for r in _all(regimes, problem) if r["steps"] and r["steps_at_rate"]]
        table.append(
            [
                name,
                f"{n:,}",
                f"{len(regimes.runs(problem))}",
                _told(regimes.predicted(problem), 1),
                _told(regimes.of_one_step(problem), 1),
                whole,
                f"{mean(dearer):.2f}" if dearer else "",
                _told(regimes.savings(problem), 1),
            ]
        )
    return table


def findings(regimes: Regimes) -> list[Finding]:
    """All claims, on the linear problems together where they say nothing of the data."""
    linear = regimes.problems("linear")
    every = [r for problem in linear for r in _all(regimes, problem)]
    gone = _by_seed(every, lambda r: r["gone"] / r["bound"])
    rates = _by_seed(every, lambda r: math.log(r["step_rate"] / r["rate"]))
    walked = _by_seed([r for r in every if r["steps"]], lambda r: math.log(r["best_rate"] / r["rate"]))
    one = _ratios(regimes, linear, regimes.of_one_step)
    whole = _ratios(regimes, linear, regimes.of_whole_runs)
    found = [
        Finding(
            "one step at η*(m) leaves g*(m) of the error in the direction of least curvature",
            INTERPOLATION,
            "g*(m)",
            f"{show(gone)} times as much gone as 1 - g*(m)" if gone else "not run",
            within(gone, (1 - CLOSE, 1 + CLOSE)),
        ),
        _near(
            "η*(m) is the rate at which one step leaves least of the worst error", "η*(m)", "measured over η*", rates
        ),
        _near("η*(m) is the best rate for whole runs", "η*(m)", "best over η*", walked),
        _near("m* = β/(λ₁ - λ_k) + 1, by the worst error of one step", "ratio 1", "measured over predicted", one),
        _near("m* = β/(λ₁ - λ_k) + 1, by the steps of whole runs", "ratio 1", "measured over predicted", whole),
        _exponent(
            "up to m* steps fall in proportion to the batch (linear scaling)",
            "exponent -1",
            [slope for problem in linear for slope in _slopes(regimes, problem)],
            -1,
        ),
    ]
    for times, where in ((1, "m*"), (8, "8 m*")):
        found.append(_saturated(regimes, linear, times, where))
    cheaper = [
        float(np.mean([math.log(m * b / a) for a, b in regimes.pairs(problem, 1, m)]))
        for problem in linear
        for m in regimes.sizes(problem)
        if 1 < m <= mean(regimes.predicted(problem)) and regimes.pairs(problem, 1, m)
    ]
    found.append(_computation("up to m* no batch needs fewer samples than batch 1", cheaper))
    found += _sizes_of_data(regimes)
    return found + _network(regimes)


def _sizes_of_data(regimes: Regimes) -> list[Finding]:
    kernels, found = regimes.problems("kernel"), []
    for claim, published, what, at in (
        ("m* hardly depends on how many data there are", "exponent 0", regimes.of_whole_runs, 0),
        ("batch 1 saves O(n) of the computation of gradient descent", "exponent 1", regimes.savings, 1),
    ):
        by_size = [dict(enumerate(what(problem))) for problem in kernels]
        seeds = set.intersection(*(set(values) for values in by_size)) if len(by_size) > 1 else set()
        n = np.log([samples for _, samples in kernels])
        slopes = [float(np.polyfit(n, np.log([values[seed] for values in by_size]), 1)[0]) for seed in sorted(seeds)]
        found.append(_exponent(claim, published, slopes, at, "n, for the kernel"))
    return found


def _network(regimes: Regimes) -> list[Finding]:
    found = []
    for problem in regimes.problems("network"):
        sizes = regimes.sizes(problem)
        if len(sizes) < 3:
            found.append(_undecided("a network has both regimes", "it did not arrive at enough sizes"))
            continue
        ends = {
            where: [math.log(b / a) / math.log(second / first) for a, b in regimes.pairs(problem, first, second)]
            for where, first, second in (
                (f"{sizes[0]} to {sizes[1]}", sizes[0], sizes[1]),
                (f"{sizes[-2]} to {sizes[-1]}", sizes[-2], sizes[-1]),
            )
        }
        (small, falls), (large, rests) = ends.items()
        found += [
            _exponent(f"a network's steps fall in proportion to the batch: {small}", "exponent -1", falls, -1),
            _exponent(f"a network's steps no longer fall with the batch: {large}", "exponent 0", rests, 0),
        ]
        dear = [math.log(m * b / a) for m in sizes[1:2] for a, b in regimes.pairs(problem, sizes[0], m)]
        found.append(_computation(f"a network: batch {sizes[1]} needs no fewer samples than batch {sizes[0]}", dear))
    return found


def _saturated(regimes: Regimes, problems: Sequence[Problem], times: int, where: str) -> Finding:
    logs: dict[int, list[float]] = {}
    for problem in problems:
        beyond = [m for m in regimes.sizes(problem) if m >= times * mean(regimes.predicted(problem))]
        for seed, (a, b) in enumerate(regimes.pairs(problem, beyond[0], FULL) if beyond else []):
            logs.setdefault(seed, []).append(math.log(a / b))
    values = [mean(each) for each in logs.values()]
    return Finding(
        f"a step with {where} samples, or the next size above, is worth nearly one of gradient descent",
        INTERPOLATION,
        "nearly equal; the bound on one step, 4 times at m* where λ_k is small",
        f"{show_factor([math.exp(each) for each in values])} times the steps of gradient descent"
        if values
        else "not run",
        within(values, (-math.inf, NEARLY)),
    )


def _computation(claim: str, logs: Sequence[float]) -> Finding:
    ours = f"{show_factor([math.exp(each) for each in logs])} times the samples" if logs else "not run"
    return Finding(claim, INTERPOLATION, "batch 1 is optimal", ours, within(logs, (-CLOSE, math.inf)))


def _near(claim: str, published: str, what: str, logs: Sequence[float]) -> Finding:
    ours = f"{what}: {show_factor([math.exp(each) for each in logs])}" if logs else "not run"
    return Finding(claim, INTERPOLATION, published, ours, within(logs, (-CLOSE, CLOSE)))


def _exponent(claim: str, published: str, slopes: Sequence[float], at: float, of: str = "m") -> Finding:
    ours = f"{show(slopes, 2)}, exponent of {of}" if slopes else "not run"
    return Finding(claim, INTERPOLATION, published, ours, within(slopes, (at - CLOSE, at + CLOSE)))


def _undecided(claim: str, why: str) -> Finding:
    return Finding(claim, INTERPOLATION, "both", why, "cannot tell")


def _ratios(regimes: Regimes, problems: Sequence[Problem], measured: Callable[[Problem], list[float]]) -> list[float]:
    """Logarithm of measured over predicted m*, the mean over problems of each seed."""
    logs: dict[int, list[float]] = {}
    for problem in problems:
        for seed, (ours, theirs) in enumerate(zip(measured(problem), regimes.predicted(problem), strict=False)):
            logs.setdefault(seed, []).append(math.log(ours / theirs))
    return [mean(each) for each in logs.values()]


def _slopes(regimes: Regimes, problem: Problem) -> list[float]:
    """Exponent of m in the steps, over the sizes up to m*, of each seed."""
    found = []
    for run, critical in zip(regimes.runs(problem), regimes.predicted(problem), strict=True):
        sizes = [m for m in sorted(run) if m != FULL and m <= critical and run[m]["steps"]]
        if len(sizes) > 1:
            steps = [run[m]["steps"] for m in sizes]
            found.append(float(np.polyfit(np.log(sizes), np.log(steps), 1)[0]))
    return found


def _by_seed(results: Sequence[Result], value: Callable[[Result], float]) -> list[float]:
    """The mean over all problems and sizes of each seed."""
    logs: dict[int, list[float]] = {}
    for result in results:
        logs.setdefault(result["seed"], []).append(value(result))
    return [mean(each) for each in logs.values()]


def _all(regimes: Regimes, problem: Problem) -> list[Result]:
    return [result for run in regimes.runs(problem) for result in run.values()]


def _told(values: Sequence[float], digits: int) -> str:
    return show(values, digits) if values else ""
