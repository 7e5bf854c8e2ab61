"""The distance from the start, in equal samples and in equal steps."""

import math
from collections.abc import Mapping
from statistics import mean
from typing import TYPE_CHECKING

import numpy as np

from ..experiment import Result
from .results import Cell, DistanceGrid, best

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINES = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1, 2)))


def draw_distances(grid: DistanceGrid, cells: Mapping[Cell, Result]) -> "Figure":
    """A row of panels for each learning rate, of the first seed; dotted, the best solution of the smallest batch."""
    from ...report.drawing import BLUE, ORANGE, finish, log_axis, styled

    @styled
    def draw() -> "Figure":
        from matplotlib.figure import Figure

        first = min(seed for _, _, seed in cells)
        small, low = grid.sizes[0], grid.rates[0]
        ends = [best(r)[0] for (b, rate, _), r in cells.items() if (b, rate) == (small, low)]
        aims = [way for way in ends if math.isfinite(way)]
        figure = Figure(figsize=(9.5, 2.9 * len(grid.rates)), layout="constrained")
        for panels, rate in zip(figure.subplots(len(grid.rates), 2, squeeze=False), grid.rates, strict=True):
            runs = {b: cells[b, rate, first] for b in grid.sizes if (b, rate, first) in cells}
            ways = [way for run in runs.values() for way in run["distances"] if 0 < way < math.inf]
            for axes, unit in zip(panels, ("samples", "steps"), strict=True):
                per_step = unit == "steps"
                for number, (b, run) in enumerate(runs.items()):
                    across, line = np.array(run["steps"]) * (1 if per_step else b), LINES[number % len(LINES)]
                    axes.plot(across, run["distances"], color=BLUE, linewidth=1.5, linestyle=line)
                    axes.plot(across[-1], run["distances"][-1], "o", color=BLUE, markersize=3.5)
                    # In equal steps the curves lie on each other: there a label stands below the end of its own.
                    spread = 5 * ((len(runs) - 1) / 2 - number)
                    offset, where = ((0, -6), ("center", "top")) if per_step else ((6, spread), ("left", "center"))
                    axes.annotate(
                        f"{b:,}", (across[-1], run["distances"][-1]), offset, textcoords="offset points",
                        ha=where[0], va=where[1], fontsize=9.5,
                    )  # fmt: skip
                axes.set_title(f"learning rate {rate:g}, equal {unit}", fontsize=10)
                if ways:
                    left, top = (1, grid.samples / small) if per_step else (small, grid.samples)
                    log_axis(axes, "x", left, top * 3, ticks=5)
                    log_axis(axes, "y", min(ways) / 1.3, max(*ways, *aims) * 1.6, ticks=5)
                if aims:
                    axes.axhline(mean(aims), color=ORANGE, linestyle=":", linewidth=1.4, zorder=1)
                    axes.annotate(
                        f"best of {small:,} at {low:g}", (axes.get_xlim()[0], mean(aims)), (4, 3),
                        textcoords="offset points", color=ORANGE, fontsize=9,
                    )  # fmt: skip
                finish(axes, unit, "" if per_step else "‖w - w₀‖", legend=False)
        return figure

    return draw()
