"""Figures over samples, seconds and epochs."""

from pathlib import Path

import numpy as np
import pytest

from rightbatch.record import read_history
from rightbatch.report.curves import PROGRESS, MovableFigure, accuracy_figure, loss_figure

from .conftest import write_run


@pytest.mark.parametrize("draw", [loss_figure, accuracy_figure])
def test_a_moved_figure_shows_what_a_new_one_shows(draw: object, tmp_path: Path) -> None:
    """One after the other, and back to samples."""
    history = read_history(write_run(tmp_path / "run", 400).events)
    moved = MovableFigure(draw(history, "samples"))  # type: ignore[operator]
    for progress in [*PROGRESS, "samples"]:
        moved.show_over(history, progress)
        fresh = draw(history, progress)  # type: ignore[operator]
        (a,), (b,) = moved.figure.axes, fresh.axes
        assert len(a.lines) == len(b.lines) > 1 and a.get_xlabel() == b.get_xlabel()
        assert a.get_xlim() == pytest.approx(b.get_xlim()) and a.get_ylim() == b.get_ylim()
        for one, other in zip(a.lines, b.lines, strict=True):
            assert np.allclose(one.get_xdata(), other.get_xdata(), rtol=1e-6)
            assert np.array_equal(one.get_ydata(), other.get_ydata())
        assert [note.xy for note in a.texts] == [pytest.approx(note.xy, rel=1e-6) for note in b.texts]
