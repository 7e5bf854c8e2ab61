"""The figure of the experiment on interpolation."""

import math
from statistics import mean
from typing import TYPE_CHECKING

import numpy as np

from ...report.drawing import BLUE, GREEN, INK, MUTED, ORANGE, VIOLET, finish, log_axis, styled
from .results import Problem, Regimes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOOKS = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (VIOLET, "D"))


@styled
def draw_regimes(regimes: Regimes) -> "Figure":
    """Speed-up, m*, the size of the data, and the network, a panel each; those without results are omitted."""
    from matplotlib.figure import Figure

    linear = regimes.problems("linear")
    shown = [each for each in linear if each[0] != "kernel"] + regimes.problems("kernel")[-1:]
    panels = [
        draw for draw, there in zip(_PANELS, (shown, linear, regimes.problems("kernel")[1:]), strict=True) if there
    ]
    network = regimes.problems("network")
    count = len(panels) + bool(network)
    figure = Figure(figsize=(9.5, 3.6 * math.ceil(count / 2)), layout="constrained")
    axes = figure.subplots(math.ceil(count / 2), 2, squeeze=False).ravel()
    for at, draw in zip(axes, panels, strict=False):
        draw(at, regimes)
    if network:
        _network(axes[len(panels)], regimes, network[0])
    for unused in axes[count:]:
        unused.set_visible(False)
    return figure


def _speed_up(axes: "Axes", regimes: Regimes) -> None:
    """T(1)/T(m), measured and in theory, each over its own T(1)."""
    linear = [each for each in regimes.problems("linear") if each[0] != "kernel"]
    top = most = 1.0
    ends: list[tuple[float, str]] = []
    for look, problem in zip(LOOKS, linear + regimes.problems("kernel")[-1:], strict=False):
        sizes = [m for m in regimes.sizes(problem) if regimes.pairs(problem, 1, m)]
        if not sizes:
            continue
        seen = [mean(a / b for a, b in regimes.pairs(problem, 1, m)) for m in sizes]
        gone = {m: mean(-math.log1p(-run[m]["bound"]) for run in regimes.runs(problem) if m in run) for m in sizes}
        colour, marker = look
        axes.plot(sizes, [gone[m] / gone[sizes[0]] for m in sizes], color=colour)
        axes.plot(sizes, seen, marker, color=colour, markersize=4.5)
        critical = mean(regimes.predicted(problem))
        height = float(np.exp(np.interp(np.log(critical), np.log(sizes), [math.log(gone[m] / gone[1]) for m in sizes])))
        axes.plot([critical] * 2, [height / 1.35, height * 1.35], color=INK, linewidth=1.4)
        ends.append((seen[-1], _label(problem)))
        top, most = max(top, *seen), max(most, sizes[-1])
    height = 0.0
    for end, label in sorted(ends):  # far enough apart to be read
        height = max(end, height * 1.35)
        axes.text(most * 1.2, height, label, va="center", fontsize=9)
    axes.plot([1, top * 1.5], [1, top * 1.5], "--", color=MUTED, linewidth=1)
    axes.text(top * 0.75, top * 1.05, "m times", color=MUTED, ha="right", fontsize=9)
    log_axis(axes, "x", 0.9, most * 12, ticks=5)
    log_axis(axes, "y", 0.9, top * 1.7, ticks=6)
    axes.set_title("steps saved", fontsize=10)
    finish(axes, "batch size m", "speed-up over batch 1", legend=False)


def _critical(axes: "Axes", regimes: Regimes) -> None:
    """m* measured both ways against m* predicted."""
    every: list[float] = []
    for what, label, marker, fill in (
        (regimes.of_one_step, "of one step", "o", BLUE),
        (regimes.of_whole_runs, "of whole runs", "s", "none"),
    ):
        points = [(mean(regimes.predicted(p)), mean(what(p))) for p in regimes.problems("linear") if what(p)]
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(x, y, marker, color=BLUE, markerfacecolor=fill, label=label)
            every += [*x, *y]
    low, high = min(every, default=1.0) / 1.4, max(every, default=10.0) * 1.4
    axes.plot([low, high], [low, high], "--", color=MUTED, linewidth=1)
    log_axis(axes, "x", low, high, ticks=6)
    log_axis(axes, "y", low, high, ticks=6)
    axes.set_title("the critical size", fontsize=10)
    finish(axes, "m* predicted", "m* measured")


def _data(axes: "Axes", regimes: Regimes) -> None:
    """Over the size of the data: m*, and what batch 1 saves."""
    kernels, ends = regimes.problems("kernel"), []
    n = [samples for _, samples in kernels]
    for colour, marker, label, what in (
        (BLUE, "o", "m* predicted", regimes.predicted),
        (ORANGE, "s", "m* of whole runs", regimes.of_whole_runs),
        (GREEN, "^", "samples of GD over\nthose of batch 1", regimes.savings),
    ):
        points = [(samples, mean(what(p))) for p, samples in zip(kernels, n, strict=True) if what(p)]
        if points:
            axes.plot(*zip(*points, strict=True), f"-{marker}", color=colour, markersize=4.5)
            axes.annotate(label, points[-1], (6, 0), textcoords="offset points", va="center", fontsize=9)
            ends += [y for _, y in points]
    log_axis(axes, "x", n[0] / 1.2, n[-1] * (n[-1] / n[0]) ** 0.8, ticks=6)
    log_axis(axes, "y", min(ends, default=1.0) / 1.5, max(ends, default=1.0) * 1.8, ticks=6)
    axes.set_title("the kernel, over the size of the data", fontsize=10)
    finish(axes, "samples in the data", "", legend=False)


_PANELS = (_speed_up, _critical, _data)


def _network(axes: "Axes", regimes: Regimes, problem: Problem) -> None:
    """Steps of the network, each seed a line, beside steps in proportion to 1/m."""
    sizes, every = regimes.sizes(problem), []
    for run in regimes.runs(problem):
        at = [m for m in sizes if m in run and run[m]["steps"]]
        steps = [run[m]["steps"] for m in at]
        axes.plot(at, steps, "-o", color=BLUE, alpha=0.55, markersize=4)
        every += steps
    if not every:
        axes.text(0.5, 0.5, "it did not arrive", transform=axes.transAxes, ha="center")
    else:
        start = mean(regimes.steps(problem, sizes[0]))
        axes.plot(sizes, [start * sizes[0] / m for m in sizes], "--", color=MUTED, linewidth=1)
        reach = math.sqrt(sizes[0] * sizes[-1])
        axes.text(reach / 1.3, start * sizes[0] / reach, "1/m", color=MUTED, ha="right", va="top", fontsize=9)
        log_axis(axes, "x", sizes[0] / 1.2, sizes[-1] * 1.3, ticks=6)
        log_axis(axes, "y", min(every) / 2.5, max(every) * 1.5, ticks=6)
    axes.set_title("the network, each line a seed", fontsize=10)
    finish(axes, "batch size m", "steps to its training loss", legend=False)


def _label(problem: Problem) -> str:
    name, samples = problem
    return f"kernel, {samples} samples" if name == "kernel" else name
