"""The figure of the experiment on learning rates at larger batches."""

from statistics import mean
from typing import TYPE_CHECKING

from ...report.drawing import BLUE, INK, MUTED, ORANGE, VIOLET, finish, log_axis, styled
from ..over_seeds import mean_interval
from .claims import RULES, ScalingRuns

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOOKS = dict(zip(RULES, ((MUTED, "v", ":"), (ORANGE, "^", "-."), (VIOLET, "s", "--"), (BLUE, "o", "-")), strict=True))
SPREAD = 1.05  # between rules at one size, so that bars do not cover each other


@styled
def draw_scaling(runs: ScalingRuns, base: int, error: str) -> "Figure":
    """Error, training loss and steps over the batch size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.7), layout="constrained")
    panels = figure.subplots(1, 3)
    for axes, what, title in zip(
        panels, ("error", "train_loss", "steps"), (error, "training loss", "steps"), strict=True
    ):
        seen: list[float] = []
        for order, (rule, (colour, marker, line)) in enumerate(LOOKS.items()):
            sizes, means, bars = [], [], []
            for scale in runs.scales:
                if values := runs.values(scale, rule, what):
                    middle = mean(values)
                    low, high = mean_interval(values) or (middle, middle)
                    shown = scale > 1 or order == 0  # at scale 1 there is one run for all rules
                    sizes.append(scale * base * (SPREAD ** (order - 1.5) if scale > 1 else 1))
                    means.append(middle)
                    bars.append((min(middle - low, 0.9 * middle), high - middle) if shown else (0.0, 0.0))
            if not means:
                continue
            axes.errorbar(
                sizes,
                means,
                yerr=tuple(zip(*bars, strict=True)),
                color=colour,
                marker=marker,
                linestyle=line,
                markersize=4.5,
                linewidth=1.5,
                elinewidth=1,
                label=rule,
            )
            seen += means
        if seen:
            reference = runs.values(1, "base", what)
            if reference:
                axes.axhline(mean(reference), color=INK, linestyle=":", linewidth=1)
            log_axis(axes, "x", base / 1.5, base * max(runs.scales) * 1.6, base=2, ticks=5)
            log_axis(axes, "y", max(min(seen), 1e-9) / 1.6, max(seen) * 1.6, ticks=6)
        axes.set_title(title, fontsize=10)
        finish(axes, "batch size", "", legend=axes is panels[0])
    return figure
