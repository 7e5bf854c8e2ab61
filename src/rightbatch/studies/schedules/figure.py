"""Batch size and rate of every schedule over the epochs, and test accuracy over epochs and steps."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..experiment import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_schedules(results: Mapping[str, Result], epochs: int) -> "Figure":
    """A row for each family that has been run, of its first seed."""
    from ...report.drawing import BLUE, GREEN, ORANGE, VIOLET, finish, linear_axis, log_axis, styled

    firsts: dict[str, Result] = {}
    for r in sorted(results.values(), key=lambda r: r["seed"]):
        if r["arms"]:
            firsts.setdefault(r["family"], r)

    @styled
    def draw() -> "Figure":
        from matplotlib.figure import Figure

        rows = max(1, len(firsts))
        figure = Figure(figsize=(10.5, 2.6 * rows + 0.2), layout="constrained")
        grid = figure.subplots(rows, 4, squeeze=False)
        for row, (panels, first) in enumerate(zip(grid, firsts.values(), strict=False)):
            looks: list[dict[str, Any]] = [
                {"color": ORANGE, "linestyle": (0, (4, 2)), "marker": "D"},
                {"color": BLUE, "linestyle": "-", "marker": "o"},
                {"color": GREEN, "linestyle": "-", "marker": "s"},
                {"color": VIOLET, "linestyle": (0, (1, 1.5)), "marker": "^"},
            ]
            for (name, run), look in zip(first["arms"].items(), looks, strict=False):
                style = {**look, "markersize": 3, "linewidth": 1.4, "label": name}
                stairs = {**style, "drawstyle": "steps-post", "markevery": 8}
                panels[0].plot([*run["places"], epochs], [*run["sizes"], run["sizes"][-1]], **stairs)
                panels[1].plot([*run["places"], epochs], [*run["rates"], run["rates"][-1]], **stairs)
                accuracy = [100 * value for value in run["accuracy"]]
                panels[2].plot(run["epochs"], accuracy, **style)
                panels[3].plot(run["at_steps"], accuracy, **style)
            runs = list(first["arms"].values())
            for axes, name in ((panels[0], "sizes"), (panels[1], "rates")):
                drawn = [value for run in runs for value in run[name] if value > 0]
                log_axis(axes, "y", min(drawn) / 1.4, max(drawn) * 1.6, ticks=6)
            steps = [step for run in runs for step in run["at_steps"]]
            log_axis(panels[3], "x", min(steps) / 1.2, max(steps) * 1.2, ticks=4)
            fixed = [100 * value for value in runs[0]["accuracy"]]
            top = max(100 * value for run in runs for value in run["accuracy"])
            for axes in panels[2:]:  # the first epochs fall below, and so does what fails
                axes.set_ylim(min(fixed[len(fixed) // 4 :]) - 3, top + 0.5)
                linear_axis(axes, "y", ticks=5)
            last = row == rows - 1
            titles = ("batch size", "learning rate", "test accuracy, %", "test accuracy, %")
            for axes, title, x in zip(panels, titles, ("epochs", "epochs", "epochs", "steps"), strict=True):
                if row == 0:
                    axes.set_title(title, fontsize=10)
                finish(axes, x if last else "", first["family"] if axes is panels[0] else "", legend=False)
            panels[3].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8, handlelength=1.8)
        return figure

    return draw()
