"""How often a step waits for a number from the device: once, whatever the number of parameters."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from rightbatch import AutoBatch, fit
from rightbatch.data import blobs
from rightbatch.loop import gradients

STEPS = 20


class Reads(TorchDispatchMode):
    """Counts the reads of single numbers, those of `float(tensor)` and `tensor.item()`."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many numbers each packed read has brought; on the CPU these are not single reads."""
    sizes: list[int] = []
    real = gradients.read

    def counted(numbers: Any) -> list[float]:
        sizes.append(sum(isinstance(n, Tensor) for n in numbers))
        return real(numbers)

    for module in ("accumulator", "gather", "gradients"):
        monkeypatch.setattr(f"rightbatch.loop.{module}.read", counted)
    return sizes


def network(layers: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), *(nn.Linear(8, 8) for _ in range(layers)), nn.Linear(8, 3))


@pytest.mark.parametrize("settings", [{}, {"clip_norm": 1.0}, {"lr": 0.1}, {"micro_batch": 5}])
@pytest.mark.parametrize("layers", [0, 5])
def test_a_step_reads_the_device_once(layers: int, settings: dict[str, Any], packed: list[int]) -> None:
    model = network(layers)
    auto = AutoBatch(model, torch.optim.SGD(model.parameters(), lr=0.1), blobs(10 * STEPS), 10, epochs=1, **settings)
    reads = Reads()
    with reads:
        for x, y in auto:
            auto.backward(F.cross_entropy(model(x), y))
            auto.step()
    assert auto.steps == STEPS and reads.count == 0
    assert len([size for size in packed if size]) == STEPS


def test_fit_reads_it_once_a_step_too(packed: list[int]) -> None:
    counts = []
    for epochs in (1, 3):
        packed.clear()
        reads = Reads()
        with reads:
            fit(network(1), blobs(10 * STEPS), batch_size=10, lr=0.1, epochs=epochs, progress=False)
        assert len([size for size in packed if size]) == epochs * STEPS
        counts.append(reads.count)
    assert counts[0] == counts[1] <= 8  # those of the trial of model, loss and targets
