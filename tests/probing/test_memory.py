"""Memory is predicted before it is tried."""

from pathlib import Path

import pytest
import torch

from rightbatch.loop.memory.forward_limit import is_out_of_memory
from rightbatch.probing import memory
from rightbatch.probing.memory import Memory, free_bytes, held_bytes, peak_bytes

CPU = torch.device("cpu")
GIB = 2**30


class Machine:
    """Numbers in place of those of the machine."""

    held, peak, free = 1 * GIB, 1 * GIB, 10 * GIB


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    there = Machine()
    for name in ("held", "peak", "free"):
        monkeypatch.setattr(memory, f"{name}_bytes", lambda device, name=name: getattr(there, name))
    return there


def test_a_batch_predicted_beyond_eighty_percent_is_refused(machine: Machine) -> None:
    found = Memory(CPU)
    machine.peak = 4 * GIB  # 3 GiB for 64 samples: 6 for 128, 9 for 192; 8 may be taken
    assert found.allows(64, 128)
    assert not found.allows(64, 192)
    machine.held, machine.free = 3 * GIB, 8 * GIB  # 2 of what the steps need are held already
    assert found.allows(64, 128) and not found.allows(64, 192)


def test_an_earlier_peak_says_nothing(machine: Machine) -> None:
    machine.peak = 9 * GIB
    found = Memory(CPU)
    assert found.allows(1, 2)
    machine.peak += 1
    assert not found.allows(64, 128)


def test_a_peak_that_rose_is_seen() -> None:
    before = peak_bytes(CPU)
    block = torch.ones(2 * before // 8, dtype=torch.float64)
    assert peak_bytes(CPU) >= block.nbytes > before
    assert 0 < held_bytes(CPU) <= 1.1 * peak_bytes(CPU)  # kept by the kernel in coarser steps
    assert free_bytes(CPU) > 0


def test_the_limit_of_a_container_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "limit").write_text("1000\n")
    (tmp_path / "usage").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 300\ninactive_file 200\n")
    monkeypatch.setattr(memory, "CONTAINERS", ((str(tmp_path), "limit", "usage", "inactive_file"),))
    assert free_bytes(CPU) == 500
    (tmp_path / "limit").write_text("max\n")
    assert free_bytes(CPU) > 1000


def test_other_errors_are_not_taken_for_memory() -> None:
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))
