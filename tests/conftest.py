"""Fixtures shared by all tests: real data, a witness of what a loop reports, and the plain loop itself."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rightbatch import AutoBatch
from rightbatch.data import Interval
from rightbatch.decision import Decision
from rightbatch.loop import Callback
from rightbatch.measurements import Audit

Loss = Callable[[Tensor, Tensor], Tensor]
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


class Witness(Callback):
    """A callback that remembers everything that is reported."""

    def __init__(self) -> None:
        self.decisions: list[tuple[int, str, float | None, float, Decision]] = []
        self.steps: list[tuple[int, list[Interval]]] = []
        self.failures: list[tuple[int, int, str, float, int]] = []
        self.audits: list[tuple[int, str, Audit]] = []
        self.methods: list[tuple[int, str]] = []

    def decision(self, step: int, samples: int, what: str, old: float | None, new: float, decision: Decision) -> None:
        self.decisions.append((step, what, old, new, decision))

    def consumed(self, step: int, intervals: list[Interval]) -> None:
        self.steps.append((step, list(intervals)))

    def failure(self, step: int, samples: int, reason: str, lr: float, restored_step: int) -> None:
        self.failures.append((step, samples, reason, lr, restored_step))

    def audit(self, step: int, samples: int, method: str, audit: Audit) -> None:
        self.audits.append((step, method, audit))

    def measuring(self, step: int, samples: int, method: str) -> None:
        self.methods.append((step, method))

    @property
    def intervals(self) -> list[Interval]:
        return [interval for _, intervals in self.steps for interval in intervals]

    def consumed_up_to(self, n: int) -> int:
        """Where the line of positions, epoch after epoch of n, ends that was consumed without gap or repetition."""
        assert all(0 <= i.start < i.stop <= n for i in self.intervals)
        begins = [i.epoch * n + i.start for i in self.intervals]
        ends = [i.epoch * n + i.stop for i in self.intervals]
        assert begins[:1] in ([], [0])
        assert all(end == begin for end, begin in zip(ends[:-1], begins[1:], strict=True))
        assert all(a <= b for (a, _), (b, _) in pairwise(self.steps))
        return ends[-1] if ends else 0


@pytest.fixture(scope="session")
def watch() -> Callable[[AutoBatch], Witness]:
    """Put a witness on a loop."""

    def begin(auto: AutoBatch) -> Witness:
        witness = Witness()
        auto.observe(witness)
        return witness

    return begin


@pytest.fixture(scope="session")
def drive() -> Callable[..., list[float]]:
    """Run the plain loop, for so many steps or to its end; return the losses of the steps taken."""

    def run(auto: AutoBatch, loss: Loss = F.cross_entropy, steps: int | None = None) -> list[float]:
        losses: list[float] = []
        if steps == 0:
            return losses
        for x, y in auto:
            auto.backward(loss(auto.model(x), y))
            if auto.step():
                losses.append(auto.last["train_loss"])
                if len(losses) == steps:
                    break
        return losses

    return run


def same(a: Any, b: Any) -> bool:
    """Whether two states, nested at will, are equal bit for bit."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


@pytest.fixture(scope="session")
def identical() -> Callable[[Any, Any], bool]:
    """Compare nested states bit for bit."""
    return same


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing the report takes seconds; the tests that look at it leave this out."""
    monkeypatch.setattr("rightbatch.fitting.recorder.write_report", lambda path: path / "report.html")
