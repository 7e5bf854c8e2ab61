"""Step time over batch size: the figure of the report and of the probe."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..measurements import StepTime
from .drawing import ABOVE, BLUE, GREEN, INK, PAPER, finish, log_axis, set_margins, styled
from .series import Series
from .words import duration, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@styled
def step_time_figure(
    points: Sequence[Sequence[float]],
    fit: StepTime | None = None,
    *,
    noise_scale: float | None = None,
    sweet_spot: float | None = None,
    sweet_range: tuple[float, float] | None = None,
) -> "Figure":
    """Step time over batch size with the fitted line, and the resulting time of a run.

    With a noise scale there is a second panel: the time to a fixed result, (1 + noise_scale/B) · (t0 + t1·B), relative
    to its minimum.

    Args:
        points: (batch size, seconds of a step, steps timed), one for each batch size.
        fit: the line fitted to them, if there is one.
        noise_scale: the gradient noise scale in samples, if known.
        sweet_spot: the batch size to mark.
        sweet_range: the range to mark around it.

    Returns:
        A matplotlib figure; `figure.savefig(path)` writes it.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    points = [point for point in points if point[0] > 0 and math.isfinite(point[1]) and point[1] > 0]
    fitted = fit is not None and fit.fixed_s >= 0 and fit.per_sample_s > 0
    both = fitted and noise_scale is not None and math.isfinite(noise_scale) and noise_scale > 0
    figure = Figure(figsize=(10.8 if both else 6.8, 4.0))
    set_margins(figure)
    axes = figure.add_subplot(1, 2, 1) if both else figure.add_subplot()

    sizes = [point[0] for point in points]
    marks = {"n½": fit.half_performance if fit is not None else math.nan, "sweet spot": sweet_spot or math.nan}
    marks = {name: at for name, at in marks.items() if math.isfinite(at) and at > 0}
    span = [*sizes, *(4 * at for at in marks.values()), *marks.values(), *(sweet_range or ())] or [1.0, 1024.0]
    low, high = max(0.7, min(span) / 1.5), max(span) * 1.5
    grid = np.geomspace(low, high, 200)
    if fitted and fit is not None:
        axes.plot(grid, fit.fixed_s + fit.per_sample_s * grid, color=GREEN, linewidth=1.6, label=_equation(fit))
    if points:
        counts = np.array([point[2] if len(point) > 2 else 1 for point in points], float)
        area = 16 + 60 * np.sqrt(counts / counts.max())
        axes.scatter(
            sizes, [point[1] for point in points], s=area, color=GREEN, edgecolor=PAPER, zorder=3, label="measured"
        )
        seconds = [point[1] for point in points] + ([fit.seconds(low), fit.seconds(high)] if fitted and fit else [])
        log_axis(axes, "y", min(seconds) / 1.35, max(seconds) * 1.5)
    else:
        axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: duration(value)))
    log_axis(axes, "x", low, high, base=2)
    finish(axes, "batch size (samples)", "seconds per step", legend=False)
    if points:
        axes.legend(**ABOVE)
    panels = [axes]
    if both and fit is not None and noise_scale is not None:
        cost = (1 + noise_scale / grid) * (fit.fixed_s + fit.per_sample_s * grid)
        cost /= cost.min()
        good = grid[cost <= 1.1]
        sweet_range = sweet_range or (float(good[0]), float(good[-1]))
        panels.append(_relative_time_panel(figure, grid, cost))
    for panel in panels:
        if sweet_range is not None:
            panel.axvspan(*sweet_range, color=BLUE, alpha=0.09, linewidth=0)
        for (name, at), colour in zip(marks.items(), (GREEN, BLUE) if "n½" in marks else (BLUE,), strict=False):
            _mark_size(panel, at, f"{name} {number(at)}", colour)
    return figure


def _relative_time_panel(figure: "Figure", sizes: Series, cost: Series) -> "Axes":
    axes = figure.add_subplot(1, 2, 2)
    axes.plot(sizes, cost, color=INK, linewidth=1.8)
    axes.set_ylim(0.9, min(4.0, max(1.5, cost.max())))
    log_axis(axes, "x", sizes[0], sizes[-1], base=2)
    finish(axes, "batch size (samples)", "relative time to the same result", legend=False)
    return axes


def _mark_size(axes: "Axes", at: float, text: str, colour: str) -> None:
    axes.axvline(at, color=colour, linewidth=1.2, linestyle=(0, (2, 2)) if colour == GREEN else "-")
    low, high = axes.get_xlim()
    right = math.log(at / low) / math.log(high / low) > 0.72
    # n½ and the sweet spot may be close together: their labels are on two lines.
    axes.annotate(
        text,
        (at, 0.99 if colour == GREEN else 0.92),
        xycoords=("data", "axes fraction"),
        xytext=(-4 if right else 4, 0),
        textcoords="offset points",
        ha="right" if right else "left",
        va="top",
        color=colour,
        fontsize=9.5,
    )


def _equation(fit: StepTime) -> str:
    return f"{duration(fit.fixed_s)} + {duration(fit.per_sample_s)} per sample"
