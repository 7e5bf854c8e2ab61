"""Norm of the gradient against batch size: what was seen, spread and all, and what theory says."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..experiment import Result
from .claims import Cell, average

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_norms(cells: Mapping[Cell, Result]) -> "Figure":
    """A panel for the sum over the batch and one for the mean, early and late in each."""
    from ...report.drawing import finish, log_axis, styled

    @styled
    def draw() -> "Figure":
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.5, 3.9), layout="constrained")
        sizes = sorted({b for _, b, _ in cells})
        for axes, reduction in zip(figure.subplots(1, 2), ("sum", "mean"), strict=True):
            axes.set_title(f"{reduction} over the batch", fontsize=10)
            reach = [_points(axes, cells, moment, reduction) for moment in ("early", "late")]
            low, high = min(low for low, _ in reach), max(high for _, high in reach)
            log_axis(axes, "x", min(sizes) / 1.6, max(sizes) * 4.5, ticks=5)
            if high > 0:
                log_axis(axes, "y", low / 1.3, high * 1.3, ticks=7)
            finish(axes, "batch size", "norm of the gradient" if reduction == "sum" else "", legend=False)
        return figure

    return draw()


def _points(axes: "Axes", cells: Mapping[Cell, Result], moment: str, reduction: str) -> tuple[float, float]:
    """Draw one moment, nudged aside of the other; the lowest and highest norm drawn."""
    from ...report.drawing import BLUE, ORANGE, PAPER, VIOLET

    colour, nudge = (BLUE, 0.93) if moment == "early" else (VIOLET, 1.07)
    sizes = sorted({b for when, b, _ in cells if when == moment})
    if not sizes:
        return math.inf, 0.0
    reach, roots = [], []
    for b in sizes:
        norms = np.concatenate([r["norms"] for (when, size, _), r in cells.items() if (when, size) == (moment, b)])
        norms = norms * (b if reduction == "sum" else 1)
        least, lower, upper, most = np.quantile(norms, (0.05, 0.25, 0.75, 0.95))
        axes.plot([b * nudge] * 2, [least, most], color=colour, linewidth=1.2)
        axes.plot([b * nudge] * 2, [lower, upper], color=colour, linewidth=4, alpha=0.55)
        roots.append(math.sqrt(np.square(norms).mean()))
        reach += [value for value in (least, most, roots[-1]) if value > 0]
    variance, signal = average(cells, moment, "variance"), average(cells, moment, "signal")
    grid = np.geomspace(sizes[0], sizes[-1], 80)
    theory = np.sqrt(signal + variance / grid) * (grid if reduction == "sum" else 1)
    axes.plot(grid, theory, color=ORANGE, linewidth=1.4, linestyle="-" if moment == "early" else (0, (4, 2)), zorder=1)
    face = colour if moment == "early" else PAPER
    axes.plot(np.array(sizes) * nudge, roots, "o", color=colour, markerfacecolor=face, markersize=5, zorder=3)
    axes.annotate(
        moment, (sizes[-1], theory[-1]), (9, 0), textcoords="offset points", color=colour, va="center", fontsize=10
    )
    return min(reach, default=math.inf), max(reach, default=0.0)
