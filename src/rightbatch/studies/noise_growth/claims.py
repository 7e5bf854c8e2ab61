"""What the noise scale over training says of the figure for MNIST, of its growth and of the run's own estimate."""

import math
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from statistics import median

import numpy as np

from ..experiment import Finding, Result, Verdict
from ..over_seeds import below_zero, mean_interval, show
from ..subject import Subject

MCCANDLISH = "McCandlish, Kaplan and Amodei, An Empirical Model of Large-Batch Training (2018)"
PUBLISHED = 900
MNIST = "mnist"  # the name of the folder that holds it
CLOSE = math.log(1.5)  # on average over looks: closer than that is no matter to a choice of the batch size


def published(subject: Subject) -> float | None:
    """The one number given, where it was given for these data."""
    return PUBLISHED if Path(subject.data).name == MNIST else None


def told_scale(scales: Sequence[float]) -> str:
    """Least to largest, three digits; "∞" where the signal does not stand out of the noise."""
    if not scales:
        return ""
    low, high = (_short(scale) for scale in (min(scales), max(scales)))
    return low if low == high else f"{low} to {high}"


def _short(scale: float) -> str:
    return "∞" if math.isinf(scale) else f"{scale:.3g}" if scale < 1000 else f"{float(f'{scale:.3g}'):,.0f}"


def findings(subject: Subject, runs: Sequence[Result]) -> list[Finding]:
    """Every claim and its verdict."""
    lines = [line for run in runs if (line := _line(run)) is not None]
    slopes = [slope for slope, _ in lines]
    growth = [found for run in runs if (found := _growth(run)) is not None]
    apart = [found for run in runs if (found := _apart(run)) is not None]
    return [
        _on_mnist(subject, runs, lines),
        Finding(
            "the noise scale grows as the loss falls",
            MCCANDLISH,
            "it grows",
            f"exponent of the loss {show(slopes, 2)}" if slopes else "not run",
            below_zero(slopes),
        ),
        Finding(
            "it grows by an order of magnitude or more in one run",
            MCCANDLISH,
            "by orders of magnitude",
            f"{show(growth, 2)} decades from the first third of the looks to the last" if growth else "not run",
            below_zero([1 - decades for decades in growth]),
        ),
        Finding(
            "a run's own smoothed estimate agrees with the exact one, within a factor of 1.5 on average over looks",
            "our own",
            "ratio 1",
            f"logarithm of the ratio, median over looks, {show(apart, 2)}" if apart else "not run",
            _close(apart),
        ),
    ]


def known_looks(run: Result) -> list[tuple[float, float]]:
    """Loss and noise scale, where the signal stands out of the noise."""
    return [(look["loss"], look["scale"][0]) for look in run["looks"] if 0 < look["scale"][0] < math.inf]


def _line(run: Result) -> tuple[float, float] | None:
    """Slope and intercept of the logarithm of the noise scale over that of the loss; None with fewer than 3 looks."""
    known = [(loss, scale) for loss, scale in known_looks(run) if loss > 0]
    if len(known) < 3:
        return None
    losses, scales = np.log(np.array(known)).T
    slope, intercept = np.polyfit(losses, scales, 1)
    return float(slope), float(intercept)


def _growth(run: Result) -> float | None:
    """Decades from the first third of the looks to the last; a scale without bound counts as the largest seen."""
    scales = [scale for _, scale in known_looks(run)]
    looks, part = run["looks"], len(run["looks"]) // 3
    if part == 0 or not scales:
        return None
    logs = np.log10([min(look["scale"][0], max(scales)) for look in looks])
    return float(logs[-part:].mean() - logs[:part].mean())


def _apart(run: Result) -> float | None:
    """Median over looks of the logarithm of the run's own estimate over the exact one."""
    pairs = [(look["own"][0], look["scale"][0]) for look in run["looks"] if look["own"]]
    logs = [math.log(own / exact) for own, exact in pairs if own < math.inf and exact < math.inf]
    return median(logs) if logs else None


def _close(apart: Sequence[float]) -> Verdict:
    interval = mean_interval(apart)
    if interval is None:
        return "cannot tell"
    if interval[0] > -CLOSE and interval[1] < CLOSE:
        return "agrees"
    return "differs" if interval[0] > CLOSE or interval[1] < -CLOSE else "cannot tell"


def _on_mnist(subject: Subject, runs: Sequence[Result], lines: Sequence[tuple[float, float]]) -> Finding:
    """Whether the one number given is among those that every run passes through, and at which loss."""
    claim, theirs = "the noise scale of MNIST is about 900", "about 900; 876 by an independent implementation"
    scales = [[look["scale"][0] for look in run["looks"]] for run in runs]
    if published(subject) is None:
        return Finding(claim, MCCANDLISH, theirs, f"{subject.data} is not MNIST", "cannot tell")
    passed = [min(values) <= PUBLISHED <= max(values) for values in scales]
    verdict: Verdict = "cannot tell"
    if len(passed) >= 3 and len(set(passed)) == 1:
        verdict = "agrees" if passed[0] else "differs"
    where = [math.exp((math.log(PUBLISHED) - intercept) / slope) for slope, intercept in lines if slope < 0]
    at = f", at a training loss of {show(where, 3)} by a power law" if where else ""
    ours = f"among the values of {sum(passed)} of {len(passed)} runs{at}; from {told_scale([*chain(*scales)])}"
    return Finding(f"{claim}: it is among the values passed", MCCANDLISH, theirs, ours, verdict)
