"""Losses and tuned rates against batch size, a line for each optimizer."""

import math
from collections.abc import Sequence
from statistics import mean
from typing import TYPE_CHECKING

from .arms import AUTOMATIC, AVERAGED, PACKAGED, RULED, STARTS
from .claims import Runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P")


def loss_figure(runs: Runs, sizes: Sequence[int]) -> "Figure":
    """Training loss at the end, tuned on the left, without a rate on the right."""
    from ...report.drawing import MUTED, finish, styled

    @styled
    def draw() -> "Figure":
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 4.0), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        groups = (list(STARTS), [*PACKAGED, *RULED])
        curves = [[(name, _curve(runs, name, "loss", sizes)) for name in group] for group in groups]
        heights = [y for group in curves for _, points in group for _, y in points]
        own = [run for run in runs.cells.get((AUTOMATIC, 0), {}).values() if run["loss"]]
        heights += [run["loss"] for run in own]
        for axes, group, title in zip(
            panels, curves, ("rates tuned", "no rate to tune, at the defaults; grey: the best tuned"), strict=True
        ):
            if axes is panels[1]:
                best = [
                    min((dict(points)[b] for _, points in curves[0] if b in dict(points)), default=math.nan)
                    for b in sizes
                ]
                axes.plot(sizes, best, color=MUTED, linewidth=5, alpha=0.3)
                if own:
                    spot = mean(run["batch"] for run in own), math.exp(mean(math.log(run["loss"]) for run in own))
                    axes.plot(*spot, "*", color=MUTED, markersize=13)
                    axes.annotate(AUTOMATIC, spot, (9, 6), textcoords="offset points", color=MUTED)
            _lines(axes, group, sizes, (min(heights) / 1.5, max(heights) * 1.6))
            axes.set_title(title, fontsize=10)
            finish(axes, "batch size", "training loss" if axes is panels[0] else "", legend=False)
        return figure

    return draw()


def rate_figure(runs: Runs, sizes: Sequence[int]) -> "Figure":
    """The tuned rates, and how steep exponents of 1 and 1/2 are."""
    from ...report.drawing import MUTED, finish, styled

    @styled
    def draw() -> "Figure":
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 4.0), layout="constrained")
        axes = figure.subplots()
        curves = [(name, _curve(runs, name, "best", sizes)) for name in STARTS]
        heights = [y for _, points in curves for _, y in points]
        foot = 3 * max(points[0][1] for _, points in curves if points)  # above the lines, which rise no faster
        top = max(*heights, foot * sizes[1] / sizes[0])
        _lines(axes, curves, sizes, (min(heights) / 2, top * 2))
        for exponent, text in ((1.0, "∝ b"), (0.5, "∝ √b")):
            end = foot * (sizes[1] / sizes[0]) ** exponent
            axes.plot(sizes[:2], (foot, end), color=MUTED, linestyle=":", linewidth=1.2)
            axes.annotate(text, (sizes[1], end), (4, 0), textcoords="offset points", color=MUTED, va="center")
        finish(axes, "batch size", "tuned rate", legend=False)
        return figure

    return draw()


def _curve(runs: Runs, name: str, key: str, sizes: Sequence[int]) -> list[tuple[int, float]]:
    found = [(size, [v for v in runs.values(name, size, key).values() if v > 0]) for size in sizes]
    return [(size, math.exp(mean(map(math.log, values)))) for size, values in found if values]


def _lines(
    axes: "Axes",
    curves: Sequence[tuple[str, list[tuple[int, float]]]],
    sizes: Sequence[int],
    limits: tuple[float, float],
) -> None:
    """A line each, named at its right end; names are moved apart where ends are close."""
    from matplotlib.ticker import FixedLocator, NullLocator

    from ...report.drawing import BLUE, GREEN, INK, ORANGE, RED, VIOLET, log_axis

    log_axis(axes, "x", sizes[0] / 1.4, sizes[-1] * (sizes[-1] / sizes[0]) ** 0.62)
    axes.xaxis.set_major_locator(FixedLocator(list(sizes)))
    axes.xaxis.set_minor_locator(NullLocator())
    log_axis(axes, "y", *limits)
    colours = (BLUE, VIOLET, INK, GREEN, ORANGE, RED)
    ends: list[tuple[float, int, str, str]] = []
    for (name, points), colour, line, marker in zip(curves, colours, LINES, MARKERS, strict=False):
        if points:
            thick = {AVERAGED: 2.4}.get(name, 1.6)
            axes.plot(
                *zip(*points, strict=True), color=colour, linestyle=line, marker=marker, linewidth=thick, markersize=5
            )
            ends.append((points[-1][1], points[-1][0], name, colour))
    apart = (limits[1] / limits[0]) ** 0.055
    spots: list[float] = []
    for height, *_ in sorted(ends):
        spots.append(max(height, spots[-1] * apart) if spots else height)
    # Brought down to lie about their ends, and below the frame.
    about = (
        math.exp(mean(math.log(spot / end[0]) for spot, end in zip(spots, sorted(ends), strict=True))) if spots else 1.0
    )
    excess = max(about, spots[-1] / (limits[1] / apart**0.5)) if spots else 1.0
    for spot, (height, x, name, colour) in zip(spots, sorted(ends), strict=True):
        axes.annotate(
            name,
            (x, height),
            (sizes[-1] * 1.35, spot / excess),
            color=colour,
            va="center",
            fontsize=9.5,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3},
        )
