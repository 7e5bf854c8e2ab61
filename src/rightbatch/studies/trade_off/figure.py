"""Steps, samples and seconds to the target, and the best learning rate, against batch size."""

import math
from collections.abc import Mapping
from statistics import geometric_mean
from typing import TYPE_CHECKING, Any

import numpy as np

from ..over_seeds import mean_interval
from .seen import TradeOffResults

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FINE = 100


def draw_costs(seen: TradeOffResults) -> "Figure":
    """Steps and samples against batch size, and against each other."""
    from ...report.drawing import BLUE, INK, ORANGE, PAPER, finish, log_axis, styled

    @styled
    def draw() -> "Figure":
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.5, 4.1), layout="constrained")
        axes, plane = figure.subplots(1, 2, width_ratios=(1.25, 1))
        grid = np.geomspace(seen.sizes[0], seen.sizes[-1], FINE)
        costs = [seen.steps(b) for b in seen.sizes] + [seen.steps(b) * b for b in seen.sizes]
        low, high = min(costs) / 1.5, max(costs) * 2.2
        for name, face, style, power in (("steps", BLUE, "-", 0), ("samples", PAPER, (0, (5, 2)), 1)):
            _points(axes, seen, {b: float(b**power) for b in seen.sizes}, color=BLUE, markerfacecolor=face)
            if seen.curve:
                axes.plot(grid, [seen.curve.steps(b) * b**power for b in grid], color=BLUE, linestyle=style)
            last = seen.sizes[-1], seen.steps(seen.sizes[-1]) * seen.sizes[-1] ** power
            axes.annotate(name, last, (6, 8), textcoords="offset points", color=BLUE, ha="right", va="bottom")
        log_axis(axes, "x", seen.sizes[0] / 1.5, seen.sizes[-1] * 1.5, ticks=6)
        log_axis(axes, "y", low, high, ticks=6)
        if seen.curve:
            _mark(axes, seen.criticals, INK, "-", "B_crit", 0.985, left=bool(seen.noises) and _less(seen))
        if seen.noises:
            _mark(axes, seen.noises, ORANGE, ":", "noise scale", 0.92, left=not (seen.curve and _less(seen)))
        axes.set_title("to the target", fontsize=10)
        finish(axes, "batch size", "steps, samples", legend=False)

        for seed in {seed for _, seed in seen.steps_of}:
            sizes, steps = seen.reached(seed)
            plane.plot(steps, np.multiply(sizes, steps), "o", color=BLUE, alpha=0.3, markersize=3)
        if seen.curve:
            wide = np.geomspace(seen.sizes[0] / 2, seen.sizes[-1] * 2, FINE)
            curve = np.array([seen.curve.steps(b) for b in wide])
            plane.plot(curve, curve * wide, color=BLUE, linewidth=1.2)
            least = seen.curve.least_steps, seen.curve.least_samples
            plane.axvline(least[0], color=INK, linestyle=":", linewidth=1)
            plane.axhline(least[1], color=INK, linestyle=":", linewidth=1)
            plane.plot(2 * least[0], 2 * least[1], "D", color=INK, markersize=6, zorder=4)
            plane.annotate("B_crit", (2 * least[0], 2 * least[1]), (6, 7), textcoords="offset points")
        for b in seen.sizes:
            plane.plot(seen.steps(b), seen.steps(b) * b, "o", color=BLUE, markersize=5, zorder=3)
            plane.annotate(
                f"{b:,}", (seen.steps(b), seen.steps(b) * b), (5, 4), textcoords="offset points", fontsize=8.5
            )
        steps, samples = [seen.steps(b) for b in seen.sizes], [seen.steps(b) * b for b in seen.sizes]
        log_axis(plane, "x", min(steps) / 1.8, max(steps) * 2, ticks=5)
        log_axis(plane, "y", min(samples) / 1.8, max(samples) * 2, ticks=5)
        plane.set_title("points are batch sizes", fontsize=10)
        finish(plane, "steps", "samples", legend=False)
        return figure

    return draw()


def draw_time_and_rates(seen: TradeOffResults) -> "Figure":
    """Seconds to the target, and the best learning rate, against batch size."""
    from ...report.drawing import GREEN, INK, MUTED, PAPER, VIOLET, finish, log_axis, styled

    @styled
    def draw() -> "Figure":
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.5, 3.7), layout="constrained")
        axes, rates = figure.subplots(1, 2)
        grid = np.geomspace(seen.sizes[0], seen.sizes[-1], FINE)
        _points(axes, seen, {b: seen.step_s(b) for b in seen.sizes}, color=GREEN)
        seconds = [seen.seconds(b) for b in seen.sizes]
        low, high = min(seconds) / 2, max(seconds) * 1.6
        if seen.curve and seen.clock:
            axes.plot(grid, [seen.curve.steps(b) * seen.clock.seconds(b) for b in grid], color=GREEN, linewidth=1.2)
        if seen.fastest:
            from_size, to_size = seen.fast_range
            axes.axvspan(from_size / 1.07, to_size * 1.07, color=GREEN, alpha=0.12, linewidth=0)
            axes.annotate(
                f"least at {seen.fastest:,}",
                (seen.fastest, 0.02),
                xycoords=("data", "axes fraction"),
                ha="center",
                color=GREEN,
                bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1.5},
            )
        if best := seen.fastest_in_theory:
            axes.axvline(best, color=INK, linestyle=":")
            axes.annotate(
                " sqrt(B_crit·n½)", (best, 0.97), xycoords=("data", "axes fraction"), va="top", color=INK, fontsize=9
            )
        log_axis(axes, "x", seen.sizes[0] / 1.5, seen.sizes[-1] * 1.5, ticks=6)
        log_axis(axes, "y", low, high, ticks=6)
        axes.set_title("seconds to the target, band within 10 %", fontsize=10)
        finish(axes, "batch size", "seconds", legend=False)

        found = {b: seen.rate(b) for b in seen.sizes}
        for r in seen.results:
            if r["rate"]:
                rates.plot(r["size"], r["rate"], "o", color=VIOLET, alpha=0.3, markersize=3)
        rates.plot(list(found), list(found.values()), "o-", color=VIOLET, linewidth=1.2)
        if seen.curve:
            shape = np.array([1 / seen.curve.steps(b) for b in seen.sizes])
            level = math.exp(float(np.mean(np.log(list(found.values())) - np.log(shape))))
            rates.plot(grid, [level / seen.curve.steps(b) for b in grid], color=INK, linewidth=1)
            rates.annotate(
                "black: proportional to 1/(1 + B_crit/b)", (0.99, 0.02), xycoords="axes fraction", ha="right", color=INK
            )
        bottom, top = min(found.values()) / 2.5, max(found.values()) * 2.5
        first = seen.sizes[0]
        for power, name, style in ((1.0, "linear", (0, (5, 2))), (0.5, "square root", (0, (1, 2)))):
            line = found[first] * (grid / first) ** power
            rates.plot(grid, line, color=MUTED, linewidth=1, linestyle=style, zorder=1)
            end = int(np.flatnonzero(line <= top / 1.15)[-1])
            at, beside = (end, (-6, -4)) if power == 1 else (FINE // 2, (4, -10))
            rates.annotate(
                name,
                (grid[at], line[at]),
                beside,
                textcoords="offset points",
                ha="right" if power == 1 else "left",
                color=MUTED,
            )
        log_axis(rates, "x", seen.sizes[0] / 1.5, seen.sizes[-1] * 1.5, ticks=6)
        log_axis(rates, "y", bottom, top, ticks=6)
        rates.set_title("best learning rate", fontsize=10)
        finish(rates, "batch size", "learning rate", legend=False)
        return figure

    return draw()


def _points(axes: "Axes", seen: TradeOffResults, each: Mapping[int, float], **style: Any) -> None:
    """Steps times what each costs at its size: every run faintly, their means, the interval of the mean as a bar."""
    for (b, _), steps in seen.steps_of.items():
        if steps is not None:
            axes.plot(b, steps * each[b], "o", alpha=0.3, markersize=3, **style)
    for b in seen.sizes:
        known = [math.log(s * each[b]) for (size, _), s in seen.steps_of.items() if size == b and s is not None]
        if interval := mean_interval(known):
            axes.plot([b, b], np.exp(interval), color=style["color"], linewidth=2.5, alpha=0.5)
        axes.plot(b, math.exp(sum(known) / len(known)), "o", markersize=5, zorder=3, **style)


def _mark(axes: "Axes", values: list[float], colour: str, style: str, name: str, height: float, left: bool) -> None:
    """A line at the mean of a batch size, its interval as a band."""
    logs = [math.log(value) for value in values]
    middle, interval = math.exp(sum(logs) / len(logs)), mean_interval(logs)
    axes.axvline(middle, color=colour, linestyle=style, linewidth=1.3)
    if interval:
        axes.axvspan(*np.exp(interval), color=colour, alpha=0.1, linewidth=0)
    axes.annotate(
        f"{name} {middle:,.0f}",
        (middle, height),
        (-5 if left else 5, 0),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="right" if left else "left",
        va="top",
        color=colour,
    )


def _less(seen: TradeOffResults) -> bool:
    """The critical batch is the smaller of the two."""
    return seen.curve is not None and seen.curve.critical < geometric_mean(seen.noises)
