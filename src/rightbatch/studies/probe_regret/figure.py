"""Time to a target against batch size, and where the probe says to train."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .pair import PairRegret

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3


def draw_regrets(regrets: Sequence[PairRegret]) -> "Figure":
    """A panel for each pair: seconds of every seed, their mean, the fitted law, and the sizes advised."""
    from ...report.drawing import finish, styled

    @styled
    def draw() -> "Figure":
        from matplotlib.figure import Figure

        rows, columns = -(-len(regrets) // COLUMNS), min(COLUMNS, len(regrets))
        figure = Figure(figsize=(max(4.5, 3.3 * columns), 2.9 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for k, (axes, regret) in enumerate(zip(panels, regrets, strict=False)):
            _panel(axes, regret)
            last_row = k + columns >= len(regrets)
            finish(axes, "batch size" if last_row else "", "" if k % columns else "time over the least", legend=False)
        for axes in panels[len(regrets) :]:
            axes.set_visible(False)
        return figure

    return draw()


def _panel(axes: "Axes", regret: PairRegret) -> None:
    from ...report.drawing import BLUE, GREEN, MUTED, ORANGE, log_axis

    b, step_s = np.array(regret.sizes), np.array(regret.step_s)
    seconds = {seed: np.array(steps) * step_s for seed, steps in regret.steps.items()}
    mean = np.exp(np.mean([np.log(each) for each in seconds.values()], axis=0))
    law = regret.least_steps * (1 + regret.critical / b) * step_s
    unit = mean.min()
    for each in seconds.values():
        axes.plot(b, each / unit, "o", color=MUTED, markersize=3, alpha=0.7)
    axes.plot(b, mean / unit, color=BLUE, linewidth=1.8)
    axes.plot(b, law / unit, color=GREEN, linewidth=1.2, linestyle="--")
    for size in regret.advised.values():
        axes.axvline(size, color=ORANGE, linewidth=1.2)
    top = max(float(each.max()) for each in seconds.values()) / unit
    log_axis(axes, "x", min(b[0], *regret.advised.values()) / 1.4, max(b[-1], *regret.advised.values()) * 1.4, ticks=5)
    log_axis(axes, "y", 0.5, max(3.0, top * 1.3), ticks=4)
    axes.set_title(f"{regret.pair}: {regret.raw:.2f}", fontsize=10)
