"""The noise scale over training: against steps, against the loss, and what it is made of."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..experiment import Result
from .claims import known_looks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "osD^vP*X"


def draw_growth(runs: Sequence[Result], level: float | None = None) -> "Figure":
    """Of the first run the course, of all runs the exact values; dashed, the level published."""
    from ...report.drawing import MUTED, log_axis, styled

    @styled
    def draw() -> "Figure":
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10.5, 3.7), layout="constrained")
        course, against, parts = figure.subplots(1, 3)
        scales = [scale for run in runs for _, scale in known_looks(run)]
        scales += [found[1] for found in runs[0]["own"] if 0 < found[1] < math.inf]
        low, high = (min(scales) / 4, max(scales) * 2.5) if scales else (1.0, 10.0)
        _course(course, runs[0], low, high)
        _against_loss(against, runs)
        _parts(parts, runs)
        if level is not None and low < level < high:
            for axes in (course, against):
                axes.axhline(level, color=MUTED, linewidth=1.0, linestyle=(0, (3, 2)), zorder=1)
            place = (course.get_xlim()[0], level)
            course.annotate(
                f"published: {level:,.0f}", place, (4, 3), textcoords="offset points", color=MUTED, fontsize=9
            )
        for axes in (course, against):
            log_axis(axes, "y", low, high, ticks=7)
        return figure

    return draw()


def _course(axes: "Axes", run: Result, low: float, high: float) -> None:
    """The run's own estimate, and the looks; a bound or a scale beyond the figure ends at its edge."""
    from ...report.drawing import BLUE, ORANGE, finish, log_axis

    own = [[step, *(min(max(value, low), high) for value in found)] for step, *found in run["own"] if step > 0]
    if own:
        steps, scale, least, most = zip(*own, strict=True)
        axes.plot(steps, scale, color=BLUE, linewidth=1.3)
        axes.fill_between(steps, least, most, color=BLUE, alpha=0.15, linewidth=0)
    looks = [(look["step"], *(min(max(v, low), high) for v in look["scale"])) for look in run["looks"] if look["step"]]
    if looks:
        steps, scale, least, most = zip(*looks, strict=True)
        errors = [
            [a - b for a, b in zip(scale, least, strict=True)],
            [b - a for a, b in zip(scale, most, strict=True)],
        ]
        axes.errorbar(steps, scale, errors, color=ORANGE, fmt="o", markersize=4, linewidth=1.2, zorder=3)
        log_axis(axes, "x", 0.8 * min(steps), 1.3 * max(steps), ticks=5)
    for text, colour, height in (("the run's own, smoothed", BLUE, 0.12), ("exact, 90 %", ORANGE, 0.04)):
        axes.text(0.97, height, text, color=colour, transform=axes.transAxes, ha="right", fontsize=9.5)
    axes.set_title(f"one run, seed {run['seed']}", fontsize=10)
    finish(axes, "steps", "noise scale, samples", legend=False)


def _against_loss(axes: "Axes", runs: Sequence[Result]) -> None:
    from ...report.drawing import ORANGE, finish

    for run, marker in zip(runs, _markers(runs), strict=True):
        known = known_looks(run)
        axes.plot(
            [loss for loss, _ in known], [scale for _, scale in known], marker, color=ORANGE, markersize=4.5, alpha=0.75
        )
    axes.set_title("exact, a marker for each seed", fontsize=10)
    _towards_less(axes, runs)
    finish(axes, "training loss, falling", "", legend=False)


def _parts(axes: "Axes", runs: Sequence[Result]) -> None:
    """V̂ and ŝ, whose ratio the noise scale is."""
    from ...report.drawing import BLUE, VIOLET, finish, log_axis

    values = []
    for name, colour, face in (("variance", BLUE, None), ("signal", VIOLET, "none")):
        for run, marker in zip(runs, _markers(runs), strict=True):
            known = [(look["loss"], look[name]) for look in run["looks"] if look[name] > 0]
            values += [value for _, value in known]
            losses, found = [loss for loss, _ in known], [value for _, value in known]
            axes.plot(losses, found, marker, color=colour, markerfacecolor=face or colour, markersize=4.5, alpha=0.75)
    for text, colour, place in (
        ("V̂, of one sample", BLUE, (0.97, 0.93)),
        ("ŝ, in common (open)", VIOLET, (0.03, 0.04)),
    ):
        side = "left" if colour == VIOLET else "right"
        axes.text(*place, text, color=colour, transform=axes.transAxes, fontsize=9.5, ha=side)
    axes.set_title("what it is the ratio of", fontsize=10)
    _towards_less(axes, runs)
    if values:
        log_axis(axes, "y", min(values) / 2, max(values) * 4, ticks=7)
    finish(axes, "training loss, falling", "", legend=False)


def _markers(runs: Sequence[Result]) -> list[str]:
    return [MARKERS[number % len(MARKERS)] for number in range(len(runs))]


def _towards_less(axes: "Axes", runs: Sequence[Result]) -> None:
    """Training goes from left to right."""
    from ...report.drawing import log_axis

    losses = [look["loss"] for run in runs for look in run["looks"] if look["loss"] > 0]
    if losses:
        log_axis(axes, "x", min(losses) / 1.3, max(losses) * 1.3, ticks=5)
        axes.invert_xaxis()
