"""The style of figures, and their conversion to SVG for a light or dark page."""

import html
import io
import math
import re
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec

from ..errors import MissingExtraError
from .words import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Each colour has one meaning throughout. In a page it becomes the style sheet's variable of that name.
COLOURS = {
    "paper": "#fffffe",
    "ink": "#1f2933",
    "muted": "#66707a",
    "grid": "#e4e7eb",
    "blue": "#2b62d9",  # training loss and batch size
    "orange": "#d9730d",  # validation and noise scale
    "green": "#0f8a5f",  # hardware: seconds, half-performance batch
    "violet": "#8a4fd3",  # learning rate
    "red": "#d03238",  # failures
}
PAPER, INK, MUTED, GRID, BLUE, ORANGE, GREEN, VIOLET, RED = COLOURS.values()

STYLE: Any = {  # matplotlib's stubs name every key
    "axes.axisbelow": True,
    "axes.edgecolor": GRID,
    "axes.facecolor": PAPER,
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 10,
    "axes.linewidth": 1.0,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.dpi": 150,
    "figure.facecolor": PAPER,
    "font.family": "sans-serif",
    "font.size": 10,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "legend.labelcolor": INK,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
    "svg.fonttype": "none",
    "text.color": INK,
    "xtick.color": MUTED,
    "xtick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.color": MUTED,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
}

# A legend in one row above the axes.
ABOVE: Any = {"loc": "lower left", "bbox_to_anchor": (-0.01, 0.99), "ncols": 6, "borderaxespad": 0.2}

Arguments = ParamSpec("Arguments")


def styled(draw: Callable[Arguments, "Figure"]) -> Callable[Arguments, "Figure"]:
    """Draw in the style of the report without changing matplotlib's settings.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """

    @wraps(draw)
    def drawn(*args: Arguments.args, **kwargs: Arguments.kwargs) -> "Figure":
        try:
            import matplotlib
        except ImportError as error:
            raise MissingExtraError("matplotlib", "report", "Drawing figures") from error
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawn


def set_margins(figure: "Figure", beside_in: float = 1.0) -> None:
    """Leave room for labels at the edges and, in inches, between panels side by side.

    matplotlib's layout engines measure the labels instead, which takes three quarters of the time of a figure.
    """
    width_in, height_in = figure.get_size_inches()
    figure.subplots_adjust(
        left=0.85 / width_in,
        right=1 - 0.12 / width_in,
        bottom=0.55 / height_in,
        top=1 - 0.34 / height_in,
        hspace=0.09,
        wspace=beside_in / (0.5 * width_in - beside_in),
    )


def log_axis(axes: "Axes", which: str, low: float, high: float, base: int = 10, ticks: int = 8) -> None:
    """A logarithmic axis from `low` to `high` with about `ticks` ticks, labelled with plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis: Axis = getattr(axes, f"{which}axis")
    getattr(axes, f"set_{which}scale")("log", base=base)
    getattr(axes, f"set_{which}lim")(low, high)
    decades = math.log10(high / low)
    choices = [(1.0, 1.5, 2.0, 3.0, 5.0, 7.0), (1.0, 2.0, 3.0, 5.0), (1.0, 2.0, 5.0)] if base == 10 else []
    subs = next((subs for subs in choices if len(subs) * decades <= ticks), (1.0,))
    axis.set_major_locator(LogLocator(base=base, subs=subs, numticks=ticks + 2))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def linear_axis(axes: "Axes", which: str, ticks: int = 6) -> None:
    """A linear axis with few ticks, labelled with plain numbers."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis: Axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def finish(axes: "Axes", x: str, y: str, legend: bool = True) -> None:
    """Label the axes, remove decoration, and add a legend if there are labels."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if axes.get_xscale() == "linear":
        linear_axis(axes, "x", ticks=7)
    axes.grid(axis="x", visible=False)
    axes.spines["left"].set_visible(False)
    axes.tick_params(labelcolor=MUTED)
    if legend and axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best")


def inline_svg(figure: "Figure", description: str) -> str:
    """A figure as an SVG element for a page: no fixed size, no fixed colours, no external resources.

    Args:
        figure: the figure.
        description: alternative text.
    """
    import matplotlib

    buffer = io.StringIO()
    # The salt makes the ids of markers and clips differ from those of the page's other figures.
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": description}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    # matplotlib's style rules would apply to the whole page; the page's style sheet replaces them.
    svg = re.sub(r"<(metadata|style).*?</\1>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    view = re.search(r'viewBox="[^"]+"', svg)
    opening = f'<svg {view.group() if view else ""} role="img" aria-label="{html.escape(description)}">'
    svg = opening + svg[svg.index(">") + 1 :]
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = svg.replace("xlink:href", "href")
    # A hundredth of a point is finer than any screen.
    svg = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path.group()), svg)
    svg = re.sub(r" *\n *", "\n", svg)
    for name, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg
