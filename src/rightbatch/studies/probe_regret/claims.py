"""The regrets of a probe in a table, and whether they keep what the library promises."""

import math
from collections.abc import Sequence
from statistics import fmean, median

from ..experiment import Finding, Verdict
from ..over_seeds import mean_interval
from .pair import PairRegret

MEDIAN_AIM, WORST_AIM = 1.1, 1.5


def row(regret: PairRegret) -> list[str]:
    """Of the table."""
    logs = [math.log(value) for value in regret.by_seed.values()]
    return [
        regret.pair,
        f"{len(logs)}",
        f"{regret.fastest:,}",
        ", ".join(f"{size:,}" for size in sorted(regret.advised.values())),
        f"{regret.raw:.2f}{_interval(logs)}",
        f"{regret.smooth:.2f}",
        _scale(regret.noise_scale),
        _scale(regret.training_noise_scale),
        f"{regret.critical:.3g}",
    ]


def findings(regrets: Sequence[PairRegret]) -> list[Finding]:
    """The median and the worst regret over the problems, judged by the interval over seeds of the same statistic."""
    seeds = sorted({seed for regret in regrets for seed in regret.by_seed})
    whole = [seed for seed in seeds if all(seed in regret.by_seed for regret in regrets)]
    medians = [math.log(median(regret.by_seed[seed] for regret in regrets)) for seed in whole]
    worst = [math.log(max(regret.by_seed[seed] for regret in regrets)) for seed in whole]
    raw = [regret.raw for regret in regrets]
    problems = f"{len(regrets)} problem{'s' * (len(regrets) != 1)}"
    return [
        Finding(
            f"with the batch size that the probe advises, training takes at most {aim:g} times as long as with the "
            f"fastest of all sizes, {words}",
            "Rightbatch",
            f"at most {aim:g}",
            f"{value:.2f}{_interval(logs)} over {problems}" if regrets else "not run",
            _verdict(logs, aim),
        )
        for words, value, logs, aim in (
            ("in the median over problems", median(raw) if raw else math.nan, medians, MEDIAN_AIM),
            ("in the worst of the problems", max(raw, default=math.nan), worst, WORST_AIM),
        )
    ]


def _scale(value: float | None) -> str:
    return "not determined" if value is None else f"{value:.3g}"


def _interval(logs: Sequence[float]) -> str:
    interval = mean_interval(logs)
    return f" ({math.exp(interval[0]):.2f} to {math.exp(interval[1]):.2f})" if interval else ""


def _verdict(logs: Sequence[float], aim: float) -> Verdict:
    interval = mean_interval(logs)
    if interval is None or interval[0] <= math.log(aim) < interval[1]:
        return "cannot tell"
    return "agrees" if fmean(logs) <= math.log(aim) else "differs"
