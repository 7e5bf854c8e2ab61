"""The gallery: pages from stored results, nothing stored is run again, and every claim stands in the table."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest

from rightbatch.studies import GradientNorms, NoiseRemoval, Subject, Wiggle

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def gallery(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("gallery")


def test_pages_come_from_what_is_stored(gallery: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wiggle = Wiggle(sizes=(4, 0), seeds=1, steps=6, looks=3)
    removal = NoiseRemoval(presentations=500, replicas=50, seeds=3)
    runs = [gallery.Run(wiggle), gallery.Run(wiggle, Subject("blobs", "linear")), gallery.Run(removal)]
    gallery.Gallery(tmp_path, runs, (), 0).make()
    page = (tmp_path / "studies" / "wiggle.md").read_text()
    assert "## mlp on digits" in page and "## linear on blobs" in page and "2 of 2 trials" in page
    assert "rightbatch.studies" in page  # the design is not the default one
    for name in ("wiggle-wiggle", "wiggle-blobs-linear-wiggle", "noise-removal-removal"):
        found = list((tmp_path / "figures" / "studies").glob(f"{name.rsplit('-', 1)[0]}-*.svg"))
        assert found and all(f"figures/studies/{path.name}" in (tmp_path / "gallery.md").read_text() for path in found)
    claims = (tmp_path / "reproduction.md").read_text()
    assert claims.count("[wiggle](studies/wiggle.md)") == 2 and "[noise-removal](studies/noise-removal.md)" in claims
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(Wiggle, "run", None)  # would fail if asked
    monkeypatch.setattr(NoiseRemoval, "run", None)
    gallery.Gallery(tmp_path, [*runs, gallery.Run(GradientNorms())], ("wiggle",), 0).make()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_table_survives_what_is_in_its_cells(gallery: ModuleType) -> None:
    assert gallery.table(("a", "b"), [("|x|", "two\nlines")])[2] == "| \\|x\\| | two lines |"
