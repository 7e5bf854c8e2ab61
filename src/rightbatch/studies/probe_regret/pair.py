"""The regret of a batch size advised for one problem, from steps to a target and seconds of steps."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from ..experiment import Result

Logs = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PairRegret:
    """What brute force says of the advice on one problem.

    Args:
        pair: its name.
        sizes: of the brute force, those that every seed reached the target with.
        steps: of every seed, in the order of sizes.
        step_s: seconds of a step, in the order of sizes.
        fastest: the size of least mean time among those.
        advised: by seed.
        raw: mean time at the size advised over the least of all sizes, the geometric mean over seeds.
        smooth: the same with steps from the fitted law.
        by_seed: of every seed, its own time at the size advised over its own time at `fastest`.
        least_steps: S_min of the law S_min·(1 + B_crit/b).
        critical: B_crit.
        noise_scale: that the probe saw at the initial parameters, the geometric mean over seeds; None where it could
            not be told.
        training_noise_scale: the same along its training.
    """

    pair: str
    sizes: tuple[int, ...]
    steps: Mapping[int, tuple[float, ...]]
    step_s: tuple[float, ...]
    fastest: int
    advised: Mapping[int, int]
    raw: float
    smooth: float
    by_seed: Mapping[int, float]
    least_steps: float
    critical: float
    noise_scale: float | None
    training_noise_scale: float | None


def pair_regret(pair: str, results: Sequence[Result]) -> PairRegret | None:
    """Put the trials of a pair together; None while there are too few.

    Counted are the seeds that have both advice and steps at all sizes, and of these the sizes at which every seed
    reached the target.
    """
    probes = {r["seed"]: r for r in results if r["size"] == 0}
    found = {(r["seed"], r["size"]): r["steps"] for r in results if r["size"]}
    planned = sorted({size for _, size in found})
    seeds = [seed for seed in sorted(probes) if all((seed, size) in found for size in planned)]
    sizes = [size for size in planned if all(found[seed, size] for seed in seeds)]
    if not seeds or len(sizes) < 3:
        return None
    b = np.log(sizes)
    steps = {seed: np.log([found[seed, size] for size in sizes]) for seed in seeds}
    mean_steps = np.mean(list(steps.values()), axis=0)
    timed: dict[int, list[float]] = {}  # logarithms of the seconds, by size
    for seed in seeds:
        for size, seconds in probes[seed]["step_s"].items():
            timed.setdefault(int(size), []).append(math.log(seconds))
    seconds_known = {size: sum(timed[size]) / len(timed[size]) for size in sizes}
    mean_s = np.array([seconds_known[size] for size in sizes])
    least, critical = fit_law(sizes, list(steps.values()))
    best = int(np.argmin(mean_steps + mean_s))

    def step_s(seed: int, size: int) -> float:
        """The logarithm of the seconds at the size advised: the excess there over its neighbours, as timed with it."""
        logs = {int(k): math.log(v) for k, v in probes[seed]["step_s"].items()}
        grid = np.array([logs[each] for each in sizes])
        return float(np.interp(math.log(size), b, mean_s) + logs[size] - np.interp(math.log(size), b, grid))

    def law(size: float) -> float:
        return math.log(least * (1 + critical / size))

    def steps_at(size: int, logs: Logs) -> float:
        """Between the sizes a straight line on logarithms; beyond them the law, from the size at the end."""
        end = min(max(size, sizes[0]), sizes[-1])
        return float(np.interp(math.log(end), b, logs)) + law(size) - law(end)

    times = {seed: step_s(seed, int(probes[seed]["advised"])) for seed in seeds}
    advised = {seed: int(probes[seed]["advised"]) for seed in seeds}
    raw = {seed: steps_at(advised[seed], mean_steps) + times[seed] for seed in seeds}
    smooth = {seed: law(advised[seed]) + times[seed] for seed in seeds}
    # The sizes advised were timed as well, and may be the fastest.
    least_raw = min(*(mean_steps + mean_s), *raw.values())
    least_smooth = min(*(law(size) + t for size, t in zip(sizes, mean_s, strict=True)), *smooth.values())
    own = {
        seed: steps_at(advised[seed], steps[seed]) + times[seed] - steps[seed][best] - mean_s[best] for seed in seeds
    }

    def mean_scale(name: str) -> float | None:
        scales = [float(probes[seed].get(name) or 0.0) for seed in seeds]
        return math.exp(fmean(map(math.log, scales))) if all(scales) else None

    return PairRegret(
        pair=pair,
        sizes=tuple(sizes),
        steps={seed: tuple(np.exp(logs).tolist()) for seed, logs in steps.items()},
        step_s=tuple(np.exp(mean_s).tolist()),
        fastest=sizes[best],
        advised=advised,
        raw=math.exp(fmean(raw.values()) - least_raw),
        smooth=math.exp(fmean(smooth.values()) - least_smooth),
        by_seed={seed: math.exp(value) for seed, value in own.items()},
        least_steps=least,
        critical=critical,
        noise_scale=mean_scale("noise_scale"),
        training_noise_scale=mean_scale("training_noise_scale"),
    )


def fit_law(sizes: Sequence[int], logs: Sequence[Logs]) -> tuple[float, float]:
    """S_min and B_crit of S(b) = S_min·(1 + B_crit/b), by least squares on the logarithms of the steps of all seeds.

    For every B_crit the best S_min is a mean; of B_crit the best of a fine grid is taken, from a tenth of the smallest
    size to ten times the largest.
    """
    b, mean = np.array(sizes, dtype=float), np.mean(logs, axis=0)
    tried = np.geomspace(b[0] / 10, 10 * b[-1], 500)
    shapes = np.log1p(tried[:, None] / b)
    offsets = (mean - shapes).mean(axis=1)
    errors = np.square(mean - shapes - offsets[:, None]).sum(axis=1)
    best = int(np.argmin(errors))
    return float(np.exp(offsets[best])), float(tried[best])
