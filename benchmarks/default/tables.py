"""The tables and the figure of docs/default.md."""

import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from .contestants.grid import RATES
from .contestants.rightbatch import Rightbatch
from .problem import problem
from .scores import Score, profiles, summary, within
from .tuned import Tuned

OWN = Rightbatch().name
FURTHEST = 4.0  # of the profile, in times of the fastest, as AlgoPerf draws it
COLOURS = ("#8c6bb1", "#66a182", "#d1a054", "#6b8fb3", "#b0706d", "#8d8d8d", "#c49bb8")


def _percent(value: float) -> str:
    return f"{100 * value:+.1f} %" if value < math.inf else "diverged"


def overview(scores: dict[str, Sequence[Score]]) -> list[str]:
    """A row for each contestant: all problems of a part."""
    lines = [
        "| | target reached | time ratio | validation loss: median | worst | test loss: median | worst | "
        "no worse than the best tuned | within 1.5 of the fastest | examples over the epochs' |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    ratios = profiles(scores)
    for name, of_one in scores.items():
        s = summary(of_one)
        cells = [
            f"{s.reached} of {s.problems}",
            f"{s.ratio:.2f}",
            *(_percent(value) for value in (*s.valid, *s.test)),
            f"{s.better}",
            f"{100 * within(ratios[name], 1.5):.0f} %",
            f"{statistics.median(one.examples for one in of_one):.2f}",
        ]
        label = f"**{name}**" if name == OWN else name
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return lines


def at_largest_rate(tuned: Iterable[Tuned]) -> str:
    """How many of the best tuned runs took the largest rate of their grid: more might have been had beyond it."""
    best = [one.best.split("-") for one in tuned]
    edge = sum(float(rate) == max(RATES[optimizer]) for optimizer, _, rate in best)
    return f"The best tuned run has the largest learning rate of its grid on {edge} of {len(best)} problems."


def per_problem(tuned: dict[str, Tuned], scores: dict[str, Sequence[Score]]) -> list[str]:
    """A row for each problem: Rightbatch at each horizon, beside the best tuned run."""
    kinds = list(scores)
    lines = [
        f"| problem | family | best tuned run | {' | '.join(f'{kind}: ratio | validation | test' for kind in kinds)} |",
        "|---|---|---|" + "---|" * (3 * len(kinds)),
    ]
    for place, name in enumerate(tuned):
        cells = [name, problem(name).family, tuned[name].best]
        for kind in kinds:
            s = scores[kind][place]
            cells += [f"{s.ratio:.2f}" if s.ratio < math.inf else "missed", _percent(s.valid), _percent(s.test)]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", at_largest_rate(tuned.values())]


def draw_profiles(scores: dict[str, dict[str, Sequence[Score]]], path: Path) -> None:
    """The performance profiles of all contestants, beside each other for each horizon, as a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    axes = figure.subplots(1, len(scores), sharey=True, squeeze=False)[0]
    grid = np.geomspace(1, FURTHEST, 400)
    for axis, (kind, of_kind) in zip(axes, scores.items(), strict=True):
        ratios, colours = profiles(of_kind), iter(COLOURS)
        for name in sorted(ratios, key=lambda name: name != OWN):
            own = name == OWN
            shares = [within(ratios[name], x) for x in grid]
            colour = "#c1272d" if own else next(colours)
            axis.plot(grid, shares, color=colour, linewidth=2.6 if own else 1.4, zorder=3 if own else 2, label=name)
        axis.set(title=kind, xlabel="time to the target over the fastest contestant's", xlim=(1, FURTHEST), ylim=(0, 1))
        axis.set_xscale("log")
        axis.set_xticks([1, 1.5, 2, 3, 4], ["1", "1.5", "2", "3", "4"], minor=False)
        axis.minorticks_off()
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("share of problems")
    axes[-1].legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, metadata={"Software": None})
