"""Curves of a run over samples, seconds or epochs: loss, accuracy, metrics, batch size and learning rate."""

import math
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..record import History
from .drawing import ABOVE, BLUE, GREEN, ORANGE, PAPER, RED, VIOLET, finish, linear_axis, log_axis, set_margins, styled
from .series import Series, envelope, running_mean, thin
from .words import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Progress = Literal["samples", "seconds", "epoch"]
PROGRESS: dict[Progress, str] = {"samples": "samples", "seconds": "seconds of training", "epoch": "epochs"}


@styled
def loss_figure(history: History, progress: Progress, wide: bool = False) -> "Figure":
    """Training loss, raw and smoothed, and validation loss over samples, seconds or epochs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.8 if wide else 6.4, 3.8))
    set_margins(figure)
    axes = figure.add_subplot()
    steps = history.steps
    raw = thin(steps[progress], steps["train_loss"])
    smooth = thin(steps[progress], running_mean(steps["train_loss"], steps["batch_size"]))
    valid = evaluated(history, progress, "valid_loss")
    if len(raw[1]):
        axes.plot(*raw, color=BLUE, linewidth=0.7, alpha=0.28)
        axes.plot(*smooth, color=BLUE, linewidth=1.8, label="training, smoothed")
    if len(valid[1]):
        axes.plot(*thin(*valid), color=ORANGE, linewidth=1.8, label="validation", marker=_dots(valid[0]), markersize=4)
        _mark_best(axes, *valid, best=int(np.argmin(valid[1])))
    _mark_failures(axes, history, progress)
    # Single batches may be outliers: the axis fits most of them and all of the smooth lines.
    shown = np.concatenate((np.quantile(raw[1], [0.005, 0.995]) if len(raw[1]) else [], smooth[1], valid[1]))
    _fit_axis(axes, shown)
    _from_start(axes, history, progress)
    _finish(axes, progress, "loss")
    return figure


@styled
def accuracy_figure(history: History, progress: Progress) -> "Figure":
    """Validation accuracy over samples, seconds or epochs."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(6.4, 3.8))
    set_margins(figure)
    axes = figure.add_subplot()
    x, accuracy = evaluated(history, progress, "valid_accuracy")
    axes.plot(*thin(x, accuracy), color=ORANGE, linewidth=1.8, label="validation", marker=_dots(x), markersize=4)
    _mark_best(axes, x, accuracy, best=int(np.argmax(accuracy)), percent=True)
    _mark_failures(axes, history, progress)
    # The early rise from chance level would hide the differences that matter.
    low = np.quantile(accuracy, 0.1) if len(accuracy) > 10 else accuracy.min()
    high = accuracy.max()
    room = max(0.02, high - low)
    axes.set_ylim(max(-0.02, low - 0.3 * room), high + 0.14 * room)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %", decimals=1 if room < 0.06 else 0))
    _from_start(axes, history, progress)
    _finish(axes, progress, "accuracy")
    return figure


@styled
def metric_figure(history: History, progress: Progress, name: str, falls: bool) -> "Figure":
    """A metric of the user's on the validation data over samples, seconds or epochs; `falls` if lower is better."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8))
    set_margins(figure)
    axes = figure.add_subplot()
    x, y = evaluated(history, progress, name)
    if len(x):
        axes.plot(*thin(x, y), color=ORANGE, linewidth=1.8, label="validation", marker=_dots(x), markersize=4)
        _mark_best(axes, x, y, best=int(np.argmin(y) if falls else np.argmax(y)))
    _mark_failures(axes, history, progress)
    _fit_axis(axes, y)
    if axes.get_yscale() == "linear":
        low, high = axes.get_ylim()
        axes.set_ylim(low, high + 0.08 * (high - low))  # room for the label of the best value
    _from_start(axes, history, progress)
    _finish(axes, progress, name)
    return figure


@styled
def course_figure(history: History) -> "Figure":
    """Batch size with noise scale and half-performance batch, and below it the learning rate, over the run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.8, 5.4))
    set_margins(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1.7, 1))
    steps = history.steps
    samples, batch = np.asarray(steps["samples"]), np.asarray(steps["batch_size"])
    noise_x, noise = thin(samples, steps["noise_scale"])
    half = [(event["samples"], event["half_performance"]) for event in history.timings]
    half = [(x, y) for x, y in half if math.isfinite(y) and y > 0]
    shown = np.concatenate((batch, noise, [y for _, y in half]))
    shown = shown[np.isfinite(shown) & (shown > 0)]
    low, high = (shown.min() / 1.6, shown.max() * 1.8) if len(shown) else (1.0, 1000.0)

    band_x, band_low, band_high = envelope(samples, steps["noise_low"], steps["noise_high"])
    if len(band_x):
        # A bound may be infinite or below one sample: the band then extends to the edge.
        band = np.clip(band_low, low / 10, high * 10), np.clip(band_high, low / 10, high * 10)
        above.fill_between(band_x, *band, color=ORANGE, alpha=0.16, linewidth=0, label="90 % interval")
    if len(noise):
        above.plot(noise_x, noise, color=ORANGE, linewidth=1.5, label="noise scale")
    if half:
        line = ([x for x, _ in half], [y for _, y in half])
        end = ([*line[0], samples[-1] if len(samples) else line[0][-1]], [*line[1], line[1][-1]])
        above.plot(*end, color=GREEN, linewidth=1.4, linestyle=(0, (4, 2)), drawstyle="steps-post", label="n½")
    above.plot(*thin(samples, batch), color=BLUE, linewidth=1.8, drawstyle="steps-post", label="batch size")
    rate = np.asarray(steps["lr"])
    below.plot(*thin(samples, rate), color=VIOLET, linewidth=1.8, drawstyle="steps-post")
    for axes, what, values in ((above, "batch_size", batch), (below, "lr", rate)):
        _mark_decisions(axes, history, what, samples, values)
        _mark_failures(axes, history, "samples", label=axes is above)
    log_axis(above, "y", low, high)
    _fit_axis(below, rate[rate > 0], ratio=3.0, ticks=5)
    above.set_ylabel("samples")
    below.set_ylabel("learning rate")
    finish(below, "samples", "learning rate", legend=False)
    above.grid(axis="x", visible=False)
    above.spines["left"].set_visible(False)
    named = dict(zip(*reversed(above.get_legend_handles_labels()), strict=True))
    order = [
        name for name in ("batch size", "decision", "noise scale", "90 % interval", "n½", "failure") if name in named
    ]
    above.legend([named[name] for name in order], order, **ABOVE)
    _from_start(above, history, "samples")
    return figure


class MovableFigure:
    """A figure over samples that can be shown over another progress, in less time than a new one is drawn in.

    Args:
        figure: over samples.
    """

    def __init__(self, figure: "Figure") -> None:
        from matplotlib.text import Annotation

        self.figure = figure
        self._lines = [
            (line, np.array(line.get_xdata(), float)) for axes in figure.axes for line in axes.lines
        ]  # fmt: skip
        self._notes = [
            (note, note.xy) for axes in figure.axes for note in axes.texts if isinstance(note, Annotation)
        ]  # fmt: skip

    def show_over(self, history: History, progress: Progress) -> None:
        """Move everything to where it is over `progress`."""
        rows = {*zip(history.steps["samples"], history.steps[progress], strict=True)}
        rows |= {(event["samples"], event[progress]) for event in history.evaluations}
        samples, along = np.array(sorted(rows) or [(0.0, 0.0)]).T
        for line, x in self._lines:
            line.set_xdata(np.interp(x, samples, along))
        for note, (at, y) in self._notes:
            note.xy = (float(np.interp(at, samples, along)), y)
        for axes in self.figure.axes:
            axes.set_xlabel(PROGRESS[progress])
            _from_start(axes, history, progress)


def evaluated(history: History, progress: Progress, name: str) -> tuple[Series, Series]:
    """One quantity over progress, from the evaluations that report it."""
    pairs = [(event[progress], event[name]) for event in history.evaluations if event.get(name) is not None]
    x, y = np.array(pairs, float).reshape(-1, 2).T
    return x[np.isfinite(y)], y[np.isfinite(y)]


def _mark_best(axes: "Axes", x: Series, y: Series, best: int, percent: bool = False) -> None:
    axes.plot(
        x[best], y[best], marker="*", markersize=12, color=ORANGE, markeredgecolor=PAPER, linestyle="none", zorder=4
    )
    text = f"best {100 * y[best]:.2f} %" if percent else f"best {number(y[best], 4)}"
    low, high = float(x.min()), float(x.max())
    place = (float(x[best]) - low) / (high - low) if high > low else 0.0
    axes.annotate(
        text,
        (float(x[best]), float(y[best])),
        xytext=(0, 9),
        textcoords="offset points",
        ha="left" if place < 0.15 else "right" if place > 0.85 else "center",
        va="bottom",
        color=ORANGE,
        fontsize=9.5,
    )


def _mark_failures(axes: "Axes", history: History, progress: Progress, label: bool = True) -> None:
    samples, along = history.steps["samples"], history.steps[progress]
    for index, failure in enumerate(history.failures[:200]):
        x = float(np.interp(failure["samples"], samples, along)) if len(samples) else 0.0
        axes.axvline(x, color=RED, linewidth=1.0, alpha=0.8, zorder=1, label="failure" if label and not index else None)


def _mark_decisions(axes: "Axes", history: History, what: str, samples: Series, values: Series) -> None:
    """A dot where a decision has changed the value by 10 % since the last dot; at most about 60 dots."""
    places = [event["samples"] for event in history.decisions if event.get("what") == what]
    if not places or not len(samples):
        return
    marked, level = [], math.inf
    for place in np.minimum(np.searchsorted(samples, places, side="right"), len(samples) - 1):
        if abs(values[place] - level) > 0.1 * abs(level) or level == math.inf:
            marked.append(place)
            level = values[place]
    after = marked[:: -(-len(marked) // 60)]
    colour = BLUE if what == "batch_size" else VIOLET
    axes.plot(
        samples[after],
        values[after],
        marker="o",
        markersize=4.5,
        linestyle="none",
        color=colour,
        markeredgecolor=PAPER,
        label="decision" if what == "batch_size" else None,
    )


def _fit_axis(axes: "Axes", values: Series, ratio: float = 8.0, ticks: int = 8) -> None:
    """Limits around `values`; logarithmic where they span more than `ratio`."""
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if low > 0 and high / low > ratio:
        room = (high / low) ** 0.06
        log_axis(axes, "y", low / room**1.5, high * room, ticks=ticks)
    else:
        room = max(high - low, 0.05 * abs(high), 1e-12)
        axes.set_ylim(low - 0.12 * room, high + 0.08 * room)
        linear_axis(axes, "y")


def _from_start(axes: "Axes", history: History, progress: Progress) -> None:
    """Show the whole run from its first sample, so that figures side by side share an axis."""
    ends = [*history.steps[progress][-1:], *(event[progress] for event in history.evaluations[-1:])]
    if ends and max(ends) > 0:
        axes.set_xlim(-0.005 * max(ends), 1.02 * max(ends))


def _finish(axes: "Axes", progress: Progress, y: str) -> None:
    finish(axes, PROGRESS[progress], y, legend=False)
    axes.legend(**ABOVE)  # to look for a free corner takes a tenth of the time of a figure


def _dots(x: Series) -> str | None:
    return "o" if len(x) <= 40 else None
