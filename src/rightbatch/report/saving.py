"""Saving figures."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from .drawing import STYLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")


def save_figure(figure: "Figure", path: str | os.PathLike[str]) -> None:
    """Save a figure as .png, .svg or .pdf; SVG files are reproducible, with coordinates rounded to 0.1 pt.

    Raises:
        InputError: the suffix is not supported, or the file cannot be written.
    """
    import matplotlib

    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise InputError(f"Cannot save a figure as {str(path)!r}: the file name must end in {', '.join(FORMATS)}.")
    try:
        if suffix != ".svg":
            figure.savefig(path)
            return
        # A fixed salt makes the same figure produce the same file.
        with matplotlib.rc_context({**STYLE, "svg.hashsalt": path.stem}):
            figure.savefig(path, metadata={"Date": None})
        text = path.read_text(encoding="utf-8")
        text = re.sub(r' d="[^"]*"', lambda lines: re.sub(r"(\.\d)\d+", r"\1", lines.group()), text)
        path.write_text(re.sub(r" +$", "", text, flags=re.MULTILINE), encoding="utf-8")
    except OSError as error:
        raise InputError(f"Cannot write the figure {str(path)!r}: {error.strerror or error}.") from error
