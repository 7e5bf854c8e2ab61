"""Objective, gradient norm, batch size and learning rate of every method against passes over the data."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .claims import LEAST, Cells

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_passes(arms: Sequence[str], cells: Cells, linear: bool, samples: int) -> "Figure":
    """A panel a quantity, the runs of the first seed; of classes and models that are not linear also accuracies."""
    from ...report.drawing import finish, linear_axis, log_axis, styled

    first = min(seed for _, seed in cells)
    runs = {arm: r for arm in arms if (r := cells.get((arm, first))) is not None and r["passes"]}
    titles = {
        "excess": "objective above its minimum" if linear else "objective",
        "norms": "gradient norm",
        "sizes": "batch size",
        "rates": "learning rate",
    }
    if not linear and any(r["test"] for r in runs.values()):
        titles |= {"train": "training accuracy", "test": "test accuracy"}

    @styled
    def draw() -> "Figure":
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.5, 0.6 + 1.55 * len(titles)), layout="constrained")
        panels = figure.subplots(len(titles) // 2, 2).flat
        for axes, (name, title) in zip(panels, titles.items(), strict=True):
            for arm, run in runs.items():
                shown = name != "rates" or arm != "Adadelta"  # whose rate is not comparable
                if shown:
                    axes.plot(run["passes"], np.maximum(run[name], LEAST), label=arm, **_style(arm))
            axes.set_title(title, fontsize=10)
            if runs:
                passes = [p for run in runs.values() for p in run["passes"]]
                log_axis(axes, "x", min(passes), max(passes), ticks=6)
            if name in ("train", "test"):
                linear_axis(axes, "y")
            elif values := [v for run in runs.values() for v in run[name] if v > 0]:
                low, high = max(min(values), LEAST), max(values)
                log_axis(axes, "y", low / 1.5, max(high, samples if name == "sizes" else 0) * 1.5, ticks=6)
            if name == "sizes":
                axes.axhline(samples, color="0.6", linewidth=0.8)
                axes.annotate(
                    "all",
                    (0, samples),
                    (3, -11),
                    xycoords=("axes fraction", "data"),
                    textcoords="offset points",
                    fontsize=9,
                )
            finish(axes, "passes" if name in list(titles)[-2:] else "", "", legend=False)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=4, handlelength=3)
        return figure

    return draw()


def _style(arm: str) -> dict[str, Any]:
    """Colour by form; markers and dashes tell the lines apart where colours do not."""
    from ...report.drawing import BLUE, GREEN, MUTED, ORANGE, VIOLET

    form, _, theta = arm.partition(", θ = ")
    colour, marker, dash = {
        "Armijo": (BLUE, "o", "-"),
        "BB": (GREEN, "s", "-"),
        "fixed step": (VIOLET, "^", "-"),
        "SGD, tuned": (ORANGE, "D", "-"),
        "SGD, decayed": (ORANGE, "D", (0, (4, 2))),
        "SGD, untuned": (MUTED, "v", "-"),
    }.get(form, (MUTED, "v", (0, (4, 2))))
    full = theta in ("", "1")
    return {
        "color": colour,
        "marker": marker,
        "markersize": 3.5,
        "markevery": 5,
        "linewidth": 1.5 if full else 1.1,
        "linestyle": dash if full else (0, (1, 1.5)),
        "markerfacecolor": colour if full else "none",
    }
