"""Figures into files."""

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
    """Write a figure into a file: .png, .svg or .pdf; an SVG without date and with no more digits than a screen shows.

    Raises:
        InputError: another ending, or the file cannot be written.
    """
    import matplotlib

    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise InputError(f"A picture was asked for in {str(path)!r}: its name must end in {', '.join(FORMATS)}.")
    try:
        if suffix != ".svg":
            figure.savefig(path)
            return
        # With a salt of its own the same figure makes the same file.
        with matplotlib.rc_context({**STYLE, "svg.hashsalt": path.stem}):
            figure.savefig(path, metadata={"Date": None})
        text = path.read_text(encoding="utf-8")
        text = re.sub(r' d="[^"]*"', lambda lines: re.sub(r"(\.\d)\d+", r"\1", lines.group()), text)
        path.write_text(re.sub(r" +$", "", text, flags=re.MULTILINE), encoding="utf-8")
    except OSError as error:
        raise InputError(f"The picture {str(path)!r} cannot be written: {error.strerror or error}.") from error
