"""The page of conversions: each difference is that of its program, and both versions run."""

import re
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "conversions.md").read_text(encoding="utf-8")
SECTIONS = re.findall(r"\[examples/(\w+)\.py\]\(.*?```diff\n(.*?)```", PAGE, re.DOTALL)
MODELS = {"gan": 2}  # models that are trained; each has three lines of its own
CALLS = ("AutoBatch(", ".backward(", ".step()")


def version(difference: str, without: str) -> str:
    """One side of a difference."""
    return "".join(f"{line[1:]}\n" for line in difference.splitlines() if line[0] != without)


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    torch.manual_seed(0)


def test_all_programs_are_there() -> None:
    assert [name for name, _ in SECTIONS] == ["dict_batches", "siamese", "vae", "lstm", "gan", "reinforce"]


@pytest.mark.parametrize(("name", "difference"), SECTIONS, ids=[name for name, _ in SECTIONS])
def test_three_lines_change(name: str, difference: str) -> None:
    added = [line[1:].strip() for line in difference.splitlines() if line[0] == "+"]
    changed = [line for line in added if not line.startswith(("for ", "size ="))]
    models = MODELS.get(name, 1)
    assert len(changed) == 3 * models
    assert all(sum(call in line for line in changed) == models for call in CALLS)


@pytest.mark.parametrize("form", ["before", "after"])
@pytest.mark.parametrize(("name", "difference"), SECTIONS, ids=[name for name, _ in SECTIONS])
def test_both_versions_run(
    name: str, difference: str, form: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) < 100
    before, after = version(difference, "+"), version(difference, "-")
    assert source.count(after) == 1
    monkeypatch.setattr(sys, "argv", [name, "--epochs", "1"])
    program = source.replace(after, before) if form == "before" else source
    program = program.replace("{auto.batch_size}", "").replace("{judge.batch_size:5d} {forger.batch_size:5d}", "")
    program = program.replace("{judge.steps} steps", "training")
    exec(compile(program, name, "exec"), {"__name__": "__main__", "DataLoader": DataLoader})
    assert capsys.readouterr().out
