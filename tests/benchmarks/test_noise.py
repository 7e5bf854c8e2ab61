"""The benchmarks of the noise run on small settings, and what they report is right."""

import importlib
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from rightbatch.noise import reference_measurement

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def overhead(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = importlib.import_module("noise_overhead")
    monkeypatch.setattr(module, "VISIT_S", 1e-4)
    monkeypatch.setattr(module, "LEAST_RUN_S", 0.0)
    return module


def small(overhead: ModuleType) -> object:
    make = lambda: nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 10))  # noqa: E731
    return overhead.Case("small", "a small network", make, 12, (5,))


def test_every_way_measures_the_same_variance(overhead: ModuleType) -> None:
    case = small(overhead)
    work = case.work(torch.device("cpu"))
    exact = reference_measurement(work.model().double(), nn.functional.cross_entropy, work.x.double(), work.y).variance
    row = overhead.compare(case, torch.device("cpu"), seconds=0.0)
    installed = [kind.name for kind in overhead.PEERS if kind not in overhead.missing()]
    assert list(row.variances) == ["default method, every step", "exact, every step", "not measuring", *installed]
    assert row.refusals == {}
    for name, variance in row.variances.items():
        if name == "not measuring":
            assert math.isnan(variance)
        else:
            assert variance == pytest.approx(exact, rel=1e-4), name


def test_the_table_has_every_way(overhead: ModuleType) -> None:
    row = overhead.compare(small(overhead), torch.device("cpu"), seconds=0.0)
    lines = overhead.table([row])
    head, cells = (line.split("|") for line in (lines[0], lines[2]))
    assert len(head) == len(cells) and cells[1].strip() == "a small network"
    assert row.amortised[1] >= 2
    for package in overhead.missing().values():
        assert f"{package} is not installed" in lines[-1]


def test_a_refusal_is_shown_with_its_reason(overhead: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(overhead.Step):
        name = "another"

        def __call__(self) -> float:
            raise NotImplementedError("no rule for Linear")

    monkeypatch.setattr(overhead, "PEERS", (Refusing,))
    monkeypatch.setattr(importlib.import_module("noise_steps"), "PEERS", (Refusing,))
    row = overhead.compare(small(overhead), torch.device("cpu"), seconds=0.0)
    lines = overhead.table([row])
    assert row.refusals == {"another": "no rule for Linear"}
    assert "refuses" in lines[2] and "- another, small: no rule for Linear" in lines


def test_own_ways_are_timed_in_every_round_however_slow(overhead: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overhead, "SLOW", 0.0)
    row = overhead.compare(small(overhead), torch.device("cpu"), seconds=0.0)
    for kind in overhead.OWN:
        assert len(row.ratios[kind.name]) == overhead.LEAST_ROUNDS
    assert len(row.ratios["vmap(grad)"]) == overhead.SLOW_ROUNDS


@pytest.mark.nightly
def test_the_script_runs() -> None:
    command = [sys.executable, str(BENCHMARKS / "noise_overhead.py"), "--only", "mlp-128", "--seconds", "0"]
    done = subprocess.run(command, cwd=BENCHMARKS.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    memory = done.stdout.split("| peak memory, MB |")[1].splitlines()[2].split("|")
    assert float(memory[2]) > 10  # MB: parameters, momentum, gradients and one batch are 11
