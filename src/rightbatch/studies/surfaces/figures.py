"""Paths on contours, and the steps they took."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..experiment import Result
from .landscapes import Surface

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = list[list[float]]

BETWEEN = 6  # points of a line between two of a path, that names keep clear of


def path_figure(surface: Surface, runs: Mapping[str, Sequence[Result]], names: Sequence[str]) -> "Figure":
    """A panel for each optimizer: the first seed's path of every batch size on the contour."""
    import torch

    from ...report.drawing import BLUE, GREEN, INK, MUTED, ORANGE, finish, linear_axis, styled

    looks: list[dict[str, Any]] = [
        {"color": ORANGE, "linestyle": "-", "linewidth": 0.9},
        {"color": BLUE, "linestyle": "--", "linewidth": 1.4},
        {"color": GREEN, "linestyle": "-.", "linewidth": 1.6},
    ]
    left, right, bottom, top = surface.window

    @styled
    def draw() -> "Figure":
        from matplotlib.figure import Figure

        figure = Figure(
            figsize=(10, 2.5 * -(-len(runs) // 2) * (1.35 if top - bottom > 12 else 1)), layout="constrained"
        )
        panels = figure.subplots(-(-len(runs) // 2), 2, squeeze=False, sharex=True, sharey=True).flat
        grid = torch.cartesian_prod(torch.linspace(left, right, 120), torch.linspace(bottom, top, 120)).double()
        level = surface.loss(grid).reshape(120, 120).T.numpy()
        cuts = level.min() + (level.max() - level.min()) * np.linspace(0, 1, 16) ** 2.5
        for place, (axes, (name, batch)) in enumerate(zip(panels, runs.items(), strict=False)):
            xs, ys = np.linspace(left, right, 120), np.linspace(bottom, top, 120)
            axes.contour(xs, ys, level, levels=cuts[1:], colors=MUTED, linewidths=0.6, alpha=0.45)
            paths: list[Points] = batch[0][surface.name]["paths"]
            for i, path in enumerate(paths):
                whole = i == len(paths) - 1
                style = {"color": INK, "linewidth": 2.2, "alpha": 0.75} if whole else looks[i % len(looks)]
                axes.plot(*path, **style, zorder=2 if whole else 3)
                axes.plot(path[0][-1], path[1][-1], "s" if whole else "o", markersize=4.5, color=style["color"])
            axes.set_xlim(left, right)
            axes.set_ylim(bottom, top)
            _label(
                axes, paths, names, [INK if i == len(paths) - 1 else looks[i % 3]["color"] for i in range(len(paths))]
            )
            steps = ", ".join(
                f"{taken if taken is not None else 'never'} ({name_})"
                for name_, taken in zip(names, batch[0][surface.name]["steps"], strict=True)
            )
            axes.set_title(f"{name}: steps {steps}", fontsize=9.5, loc="left")
            finish(axes, "x" if place >= len(runs) - 2 else "", "y" if place % 2 == 0 else "", legend=False)
            linear_axis(axes, "y", ticks=5)
            axes.grid(visible=False)
        for axes in list(panels):
            axes.set_axis_off()
        return figure

    return draw()


def _label(axes: "Axes", paths: Sequence[Points], names: Sequence[str], colours: Sequence[str]) -> None:
    """Name each path where it is farthest from the others, from the names there are and from the frame."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    # In units of a label's height; one is about twice as wide as high, so that ways along x count half.
    unit = np.array([2 * (right - left) / 40, (top - bottom) / 16])
    dense = [_dense(np.array(path).T) / unit for path in paths]
    frame = np.array([[left, bottom], [right, top]]) / unit
    put: list[np.ndarray] = []
    for i, path in enumerate(dense):
        rest = np.concatenate([other for j, other in enumerate(dense) if j != i])
        spots = np.concatenate([path[::BETWEEN] + shift for shift in ([0, 1.0], [0, -1.0], [1.0, 0], [-1.0, 0])])
        room = np.minimum(np.linalg.norm(spots[:, None] - rest, axis=-1).min(1), 3.0)
        own = np.minimum(np.linalg.norm(spots[:, None] - path, axis=-1).min(1), 1.0)
        names_room = np.min([np.linalg.norm(spots - other, axis=1) for other in put], axis=0) if put else 3.0
        inside = ((spots > frame[0] + 1) & (spots < frame[1] - 1)).all(1)
        best = spots[np.argmax(np.where(inside, np.minimum(room, names_room) + 2 * own, -1.0))]
        put.append(best)
        x, y = (best * unit).tolist()
        axes.text(x, y, names[i], color=colours[i], ha="center", va="center", fontsize=9.5, zorder=4)


def _dense(path: np.ndarray) -> np.ndarray:
    """Points along the lines that are drawn between the points."""
    share = np.linspace(0, 1, BETWEEN, endpoint=False)[:, None, None]
    return np.concatenate([((1 - share) * path[:-1] + share * path[1:]).reshape(-1, 2), path[-1:]])


def steps_figure(runs: Mapping[str, Sequence[Result]], sizes: Sequence[int], limit: int) -> "Figure":
    """Steps to the goal against batch size, a panel for each surface; what never got there stands at the top."""
    from matplotlib.ticker import FixedLocator, NullLocator

    from ...report.drawing import BLUE, GREEN, MUTED, ORANGE, VIOLET, finish, log_axis, styled

    looks = [(BLUE, "o", "-"), (VIOLET, "s", "--"), (GREEN, "^", "-."), (ORANGE, "D", ":")]
    across = [*(b for b in sizes if b), max(sizes) ** 2 / sizes[-3] if len(sizes) > 2 else max(sizes) * 8]
    never = limit * 2.0

    @styled
    def draw() -> "Figure":
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 3.4), layout="constrained")
        panels = figure.subplots(1, 3, sharey=True)
        for axes, surface in zip(panels, ("plateau", "saddle", "ravine"), strict=True):
            log_axis(axes, "x", across[0] / 1.8, across[-1] * 12)
            axes.xaxis.set_major_locator(FixedLocator(across))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xticklabels([f"{b:,}" for b in across[:-1]] + ["all"])
            log_axis(axes, "y", 2, limit * 3)
            ends = []
            for (name, batch), (colour, marker, line) in zip(runs.items(), looks, strict=False):
                taken = [[run[surface]["steps"][i] for run in batch] for i in range(len(across))]
                mean = [None if None in steps else float(np.exp(np.mean(np.log(steps)))) for steps in taken]
                height = [math.nan if value is None else value for value in mean]
                axes.plot(across, height, linestyle=line, marker=marker, color=colour, markersize=5)
                away = [x for x, value in zip(across, mean, strict=True) if value is None]
                axes.plot(away, [never] * len(away), marker, color=MUTED, markersize=5, markerfacecolor="none")
                ends += [(y, x, name, colour) for x, y in zip(across, height, strict=True) if y == y][-1:]
            low = 0.0
            for height_, x, name, colour in sorted(ends):  # labels are kept a factor apart
                low = max(height_, low * 1.45)
                axes.text(x * 1.4, low, name, color=colour, va="center", fontsize=9.5)
            axes.axhline(limit, color=MUTED, linewidth=0.8, linestyle=":")
            axes.text(across[1], never, "never", color=MUTED, va="center", fontsize=9)
            axes.set_title(surface, fontsize=10)
            finish(axes, "batch size", "steps" if axes is panels[0] else "", legend=False)
        return figure

    return draw()
