"""Statistics over seeds: intervals of the mean and of a further run, and the verdicts that follow."""

import math
from collections.abc import Sequence
from statistics import mean, stdev

from ..report.words import NOTHING, number
from .experiment import Verdict

LEAST_RUNS = 3  # the minimum for an interval


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """90 % interval of the mean by Student's t, assuming normal, independent runs; None if there are too few."""
    return _about_mean(values, 1 / len(values)) if values else None


def run_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """90 % interval for a further run, to judge a published single run; None if there are too few."""
    return _about_mean(values, 1 + 1 / len(values)) if values else None


def show(values: Sequence[float], digits: int = 3, further: bool = False) -> str:
    """The mean with its 90 % interval, or with that of a further run, as text."""
    half = (run_interval if further else mean_interval)(values)
    text = f"{mean(values):.{digits}f}"
    return text if half is None else f"{text} ± {(half[1] - half[0]) / 2:.{digits}f}"


def below_zero(values: Sequence[float]) -> Verdict:
    """Whether the mean is below zero, judged by its interval."""
    interval = mean_interval(values)
    if interval is None or interval[0] <= 0 <= interval[1]:
        return "cannot tell"
    return "agrees" if interval[1] < 0 else "differs"


def within(values: Sequence[float], limits: tuple[float, float]) -> Verdict:
    """Whether the mean is within the limits, judged by its interval."""
    interval = mean_interval(values)
    if interval is None:
        return "cannot tell"
    if limits[0] <= interval[0] and interval[1] <= limits[1]:
        return "agrees"
    return "differs" if interval[1] < limits[0] or interval[0] > limits[1] else "cannot tell"


def all_within(groups: Sequence[Sequence[float]], limits: tuple[float, float]) -> Verdict:
    """`within` for each group that has runs: one group outside the limits differs; to agree, all must."""
    verdicts = [within(values, limits) for values in groups if values]
    if "differs" in verdicts:
        return "differs"
    return "agrees" if verdicts and set(verdicts) == {"agrees"} else "cannot tell"


def show_factor(values: Sequence[float]) -> str:
    """The geometric mean of positive numbers with its 90 % interval, as text."""
    if not values:
        return NOTHING
    logs = [math.log(value) for value in values]
    interval = mean_interval(logs)
    middle = number(math.exp(mean(logs)))
    return (
        middle if interval is None else f"{middle} ({number(math.exp(interval[0]))} to {number(math.exp(interval[1]))})"
    )


def _about_mean(values: Sequence[float], share: float) -> tuple[float, float] | None:
    from ..noise.statistics.intervals import t_quantile

    if len(values) < LEAST_RUNS:
        return None
    half = t_quantile(len(values) - 1) * stdev(values) * math.sqrt(share)
    return mean(values) - half, mean(values) + half
