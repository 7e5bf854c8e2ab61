"""Accuracy over the epochs, a panel for each form."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .claims import Forms

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_forms(forms: Forms, shown: Sequence[str], published: Mapping[str, tuple[float, float]]) -> "Figure":
    """A line for each seed: blue on training data, orange on test data; dashed, the published test accuracy."""
    from ...report.drawing import BLUE, MUTED, ORANGE, finish, styled

    columns = 4 if len(shown) > 6 else 3
    lines = -(-len(shown) // columns)

    @styled
    def draw() -> "Figure":
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 2.4 * lines), layout="constrained")
        grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
        low = min(min(run[part]) for form in shown for run in forms[form].values() for part in ("train", "test"))
        for place, (axes, form) in enumerate(zip(grid.flat, shown, strict=False)):
            for run in forms[form].values():
                epochs = range(1, len(run["test"]) + 1)
                axes.plot(epochs, run["train"], color=BLUE, linewidth=0.7, alpha=0.6)
                axes.plot(epochs, run["test"], color=ORANGE, linewidth=0.7, alpha=0.6)
            if form in published:
                axes.axhline(published[form][1], color=MUTED, linestyle="--", linewidth=1)
                if place == 0:
                    axes.text(2, published[form][1] + 0.02, "published", fontsize=9, color=MUTED)
            axes.set_title(form, fontsize=10)
            axes.set_ylim(max(0.0, low - 0.03), 1)
            last, left = place + columns >= len(shown), place % columns == 0
            finish(axes, "epoch" if last else "", "accuracy" if left else "", legend=False)
            axes.tick_params(labelbottom=last)
        for text, colour, height in (("training", BLUE, 0.2), ("test", ORANGE, 0.08)):
            grid.flat[0].text(0.97, height, text, color=colour, transform=grid.flat[0].transAxes, ha="right")
        for axes in grid.flat[len(shown) :]:
            axes.set_axis_off()
        return figure

    return draw()
