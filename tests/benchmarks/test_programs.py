"""Programs before and after: every way sees the same samples, and the table says what was measured."""

import importlib
import math
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SYNTHETIC = ["padded dictionaries, token weights", "siamese net", "VAE", "LSTM with carried state", "GAN", "REINFORCE"]


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("programs")


def shortened(programs: ModuleType, name: str) -> object:
    program = programs.PROGRAMS[name]()
    program.epochs = 1
    return program


@pytest.mark.parametrize("name", SYNTHETIC)
def test_ways_see_as_many_samples(programs: ModuleType, name: str) -> None:
    seen = {}
    for way in ("plain", "lr scaled"):
        result = programs.run(lambda: shortened(programs, name), way, 0)
        assert math.isfinite(result.loss) and result.seconds > 0
        seen[way] = result.samples
    assert len(set(seen.values())) == 1 and seen["plain"] >= 300


def test_in_the_same_order_the_conversion_is_the_plain_loop(programs: ModuleType) -> None:
    name = "LSTM with carried state"  # its order is kept, so that both see the same batches
    plain, same = (programs.run(lambda: shortened(programs, name), way, 0) for way in ("plain", "same size"))
    assert (plain.samples, plain.steps) == (same.samples, same.steps)
    assert same.loss == pytest.approx(plain.loss, rel=1e-5)


def test_sums_of_the_table(programs: ModuleType) -> None:
    results = {
        name: {
            "plain": [programs.Result(1.0, 2.0, 640, 10), programs.Result(3.0, 2.0, 640, 10)],
            "converted": [programs.Result(loss, 1.0, 640, 5), programs.Result(3.0, 1.0, 640, 5)],
            "lr scaled": [programs.Result(1.0, 1.0, 640, 4)] * 2,
            "same size": [programs.Result(2.0, 3.0, 640, 10)] * 2,
        }
        for name, loss in (("first", 1.0), ("second", 1.2))
    }
    cells = [cell.strip() for cell in programs.row("second", results["second"]).strip("|").split("|")]
    assert cells == [
        *("second", "2.0000 ± 70.7 %", "2.00", "64"),
        *("+5.0 %", "0.50", "128"),
        *("-50.0 %", "0.50", "160"),
        *("+0.0 %", "1.50"),
    ]
    found = programs.summary(results, "converted")
    assert "1 of 2" in found and "second (+5.0 %)" in found
    assert "0 of 2" in programs.summary(results, "same size")
    assert all(line.count("|") == len(cells) + 1 for line in programs.HEAD)


def test_rows_of_a_nest(programs: ModuleType) -> None:
    assert programs.rows({"a": [torch.zeros(3, 2), torch.zeros(3)]}) == 3
    assert programs.rows(((torch.zeros(5), torch.zeros(5)), torch.zeros(5))) == 5
