"""Loss over learning rate: the figure of a range test."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .drawing import BLUE, GREEN, INK, finish, log_axis, styled
from .words import number

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def rate_figure(
    rates: Sequence[float], losses: Sequence[float], smoothed: Sequence[float], marks: Mapping[str, float]
) -> "Figure":
    """Loss of every batch and its smoothed curve over the learning rate, with named rates marked.

    Args:
        rates: learning rates, in increasing order.
        losses: the loss at each rate.
        smoothed: the smoothed loss at each rate.
        marks: rates by name.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.8, 4.0), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(rates, losses, color=GREEN, linewidth=0.8, alpha=0.5, label="loss of the batch")
    axes.plot(rates, smoothed, color=INK, linewidth=1.8, label="smoothed")
    styles = ("-", (0, (4, 2)), (0, (1, 2)))
    for (name, rate), style in zip(marks.items(), styles, strict=False):
        axes.axvline(rate, color=BLUE, linewidth=1.2, linestyle=style, label=f"{name} {number(rate, 2)}")
    low, high = min(smoothed), max(smoothed[0], min(smoothed))
    room = 0.15 * (high - low) or 0.1 * abs(low) or 1.0
    axes.set_ylim(low - room, high + 3 * room)
    log_axis(axes, "x", rates[0], rates[-1] * 1.01)
    finish(axes, "learning rate", "loss")
    return figure
