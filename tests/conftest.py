"""Fixtures shared by all tests."""

from pathlib import Path

import pytest
import torch

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data sets; tests that need it are skipped where it is absent."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"needs the real data sets in {REAL_DATA}")
    return REAL_DATA


@pytest.fixture(autouse=True)
def one_thread_and_seed() -> None:
    """Same arithmetic on every machine: one thread, fixed seed."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
