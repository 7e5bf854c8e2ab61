"""Test loss, accuracy and sharpness against batch size, and what a switch of the batch size does."""

import math
from statistics import mean
from typing import TYPE_CHECKING, Any

import numpy as np

from ..experiment import Drawing
from ..over_seeds import mean_interval
from .results import BUDGETS, SPELLED, WAYS, Cells, Setting

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def drawings(cells: Cells) -> list[Drawing]:
    """What can be drawn of the trials there are."""
    drawn = []
    if any(kind == "plain" for kind, _, _ in cells.grid):
        drawn = [
            Drawing(
                "generalisation",
                draw_outcomes(cells),
                "Test loss (above) and test accuracy (below) against batch size, mean and 90 % interval over seeds, a "
                "panel for each budget and a line for each way to set the learning rate; the worst lie outside",
            ),
            Drawing(
                "generalisation_sharpness",
                draw_sharpness(cells),
                "Keskar's sharpness and the largest eigenvalue of the Hessian of the training loss against batch size, "
                "geometric means and 90 % intervals over seeds, at the end of equal samples and of equal steps",
            ),
        ]
    if cells.switches:
        drawn.append(
            Drawing(
                "generalisation_switch",
                draw_switches(cells),
                "Test loss and accuracy against samples consumed, means over seeds: one batch size alone, and a "
                "switch after the epochs that equal samples are (grey line)",
            )
        )
    return drawn


def _look(way: str) -> dict[str, Any]:
    """Line and marker of each way to set the rate; they differ without colour too."""
    from ...report.drawing import BLUE, GREEN, MUTED, ORANGE

    colour, line, marker = {
        "fixed": (MUTED, ":", "s"),
        "root": (GREEN, (0, (5, 2)), "^"),
        "linear": (ORANGE, "-.", "D"),
        "tuned": (BLUE, "-", "o"),
    }[way]
    return {"color": colour, "linestyle": line, "marker": marker, "markersize": 4.5, "linewidth": 1.5}


def draw_outcomes(cells: Cells) -> "Figure":
    """Test loss above, test accuracy below; a panel for each budget, a line for each way to set the rate."""
    from ...report.drawing import finish, linear_axis, log_axis, styled

    @styled
    def draw() -> "Figure":
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 5.8), layout="constrained")
        grid = figure.subplots(2, 3, sharey="row")
        for panels, name, words in zip(
            grid, ("test_loss", "test_accuracy"), ("test loss", "test accuracy"), strict=True
        ):
            for axes, budget in zip(panels, BUDGETS, strict=True):
                for way in WAYS:
                    _line(axes, cells, way, budget, name)
                if name == "test_loss":
                    axes.set_title(f"equal {budget}", fontsize=10)
                    if axes.has_data():
                        axes.set_ylim(*_reach(cells, name))  # before the scale, which one value alone would confuse
                        log_axis(axes, "y", *_reach(cells, name), ticks=6)
                else:
                    linear_axis(axes, "y")
                    if axes.has_data():
                        axes.set_ylim(*_reach(cells, name))
                _sizes(axes, cells)
                finish(axes, "batch size" if name == "test_accuracy" else "", words if axes is panels[0] else "", False)
        handles, names = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=4, handlelength=3)
        return figure

    return draw()


def _line(axes: "Axes", cells: Cells, way: str, budget: str, name: str) -> None:
    nudge = 1.05 ** (WAYS.index(way) - 1.5)
    known = [(b, values) for b in cells.sizes if (values := cells.values(("plain", b, way, budget), name))]
    if not known:
        return
    look, across = _look(way), [b * nudge for b, _ in known]
    axes.plot(across, [mean(values) for _, values in known], label=f"rate {SPELLED[way]}", **look)
    for at, (_, values) in zip(across, known, strict=True):
        if interval := mean_interval(values):
            axes.plot([at, at], interval, color=look["color"], linewidth=1)


def _reach(cells: Cells, name: str) -> tuple[float, float]:
    """Limits that hold what is of interest: the worst failures may lie outside."""
    settings: list[Setting] = [("plain", b, way, budget) for b in cells.sizes for way in WAYS for budget in BUDGETS]
    means = [mean(values) for setting in settings if (values := cells.values(setting, name))]
    best, usual = (min, 0.9) if name == "test_loss" else (max, 0.1)
    far, near = float(np.quantile(means, usual)), best(means)
    if name == "test_loss":
        near = max(near, far / 1000) or 1.0  # all may be 0, or one of them
        return near / 1.15, max(far, near * 1.2) * 1.15
    wide = max(near - far, 0.005)
    return far - 0.3 * wide, min(near + 0.3 * wide, 1.0)


def _sizes(axes: "Axes", cells: Cells) -> None:
    from ...report.drawing import log_axis
    from ...report.words import short

    log_axis(axes, "x", cells.sizes[0] / 1.5, cells.sizes[-1] * 1.5, base=2)
    apart = [b for k, b in enumerate(cells.sizes) if k in (0, len(cells.sizes) - 1) or b * 1.9 < cells.sizes[-1]]
    axes.set_xticks(apart, [short(b) for b in apart])


def draw_sharpness(cells: Cells) -> "Figure":
    """Keskar's measure and the largest eigenvalue, with the rate fixed and re-tuned, after equal samples and steps."""
    from ...report.drawing import finish, log_axis, styled

    @styled
    def draw() -> "Figure":
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 3.7), layout="constrained")
        panels = figure.subplots(1, 4)
        for axes, (name, words), budget in zip(
            panels,
            [("sharpness", "Keskar's sharpness")] * 2 + [("eigenvalue", "largest eigenvalue")] * 2,
            ("samples", "steps") * 2,
            strict=True,
        ):
            drawn: list[float] = []
            for way in ("fixed", "tuned"):
                known = [
                    (b, np.log([value for value in values if value > 0]))
                    for b in cells.sizes
                    if max(values := cells.values(("plain", b, way, budget), name), default=0) > 0
                ]
                if not known:
                    continue
                middle = [math.exp(logs.mean()) for _, logs in known]
                axes.plot([b for b, _ in known], middle, label=f"rate {SPELLED[way]}", **_look(way))
                for b, logs in known:
                    if interval := mean_interval(logs.tolist()):
                        ends = [math.exp(end) for end in interval]
                        axes.plot([b, b], ends, color=_look(way)["color"], linewidth=1)
                        drawn += ends
                drawn += middle
            axes.set_title(f"{words},\nequal {budget}", fontsize=10)
            if drawn:
                axes.set_ylim(min(drawn) / 1.3, max(drawn) * 1.3)
                log_axis(axes, "y", min(drawn) / 1.3, max(drawn) * 1.3, ticks=6)
            _sizes(axes, cells)
            finish(axes, "batch size", "", legend=False)
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=2, handlelength=3)
        return figure

    return draw()


def draw_switches(cells: Cells) -> "Figure":
    """Test loss and accuracy on the way: the smallest and the largest batch throughout, and the switches."""
    from ...report.drawing import BLUE, GREEN, INK, MUTED, ORANGE, VIOLET, finish, linear_axis, log_axis, styled

    small, large = cells.sizes[0], cells.sizes[-1]
    ways = {  # what is drawn: its colour and line
        f"{small:,} from the start": (BLUE, "-"),
        f"{large:,} from the start": (INK, ":"),
        f"{large:,}, then {small:,}": (ORANGE, (0, (5, 2))),
        f"{small:,}, then {large:,}": (GREEN, "-."),
        f"{large:,}, then a larger rate": (VIOLET, (0, (1, 1))),
    }
    kinds = (small, large, "large, then small", "small, then large", "large, then a larger rate")

    @styled
    def draw() -> "Figure":
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 3.9), layout="constrained")
        panels = figure.subplots(1, 2)
        switched = [r["curve"]["samples"] for r in cells.switches.values()]
        last = max(samples[-1] for samples in switched if samples) if any(switched) else 0
        for axes, name, words in zip(
            panels, ("test_loss", "test_accuracy"), ("test loss", "test accuracy"), strict=True
        ):
            seen: list[float] = []
            for kind, (label, (colour, line)) in zip(kinds, ways.items(), strict=True):
                curves = [
                    r["curve"]
                    for key, r in (cells.grid if isinstance(kind, int) else cells.switches).items()
                    if (key[:2] == ("plain", kind) if isinstance(kind, int) else key[0] == kind)
                ]
                whole = [c for c in curves if len(c["samples"]) == max(len(c["samples"]) for c in curves)]
                if not whole or not whole[0]["samples"]:
                    continue
                across, up = np.array(whole[0]["samples"]), np.mean([c[name] for c in whole], axis=0)
                drawn = np.searchsorted(across, last) + 1  # one beyond the edge, to be cut there
                axes.plot(across[:drawn], up[:drawn], color=colour, linestyle=line, label=label)
                seen += up[(across <= last) & (across > last / 20)].tolist()
            if not seen:
                continue
            axes.axvline(last / 2, color=MUTED, linewidth=0.8)
            axes.set_xlim(0, last * 1.02)
            if name == "test_loss":
                reach = min(seen) / 1.1, float(np.quantile(seen, 0.9)) * 1.2
                axes.set_ylim(*reach)
                log_axis(axes, "y", *reach, ticks=6)
            else:
                axes.set_ylim(float(np.quantile(seen, 0.1)) - 0.02, min(max(seen) + 0.01, 1))
                linear_axis(axes, "y")
            finish(axes, "samples consumed", words, legend=False)
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=3, handlelength=3)
        return figure

    return draw()
