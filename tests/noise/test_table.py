"""The published table of layers has every case and keeps to its limits."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("noise_cases", ROOT / "benchmarks" / "noise_cases.py")
cases = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cases)


def published() -> dict[tuple[str, str], tuple[float, float]]:
    text = (ROOT / "docs" / "layers.md").read_text(encoding="utf-8")
    part = text.split("<!-- agreement -->")[1].split("<!-- /agreement -->")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("|")]
    return {(layer, setting): (float(double), float(single)) for layer, setting, double, single in rows[2:]}


def test_the_table_has_every_case_and_no_other() -> None:
    expected = [(layer, setting) for layer, settings in cases.CASES.items() for setting in settings]
    assert list(published()) == expected, "make it again: python benchmarks/noise_table.py --write"


@pytest.mark.parametrize("layer", cases.CASES)
def test_the_limits_are_kept(layer: str) -> None:
    for (of, setting), (double, single) in published().items():
        if of == layer:
            assert double <= 1e-10 and single <= 1e-4, setting
