"""Metrics in several processes, each of which evaluates its share."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rightbatch import InputError, fit
from rightbatch.data import as_source
from rightbatch.fitting.evaluation import evaluate
from rightbatch.fitting.metrics import Metrics
from rightbatch.loop.distributed.process_group import ProcessGroup

N = 101
X = torch.randn(N, 2, generator=torch.Generator().manual_seed(5))
Y = (X[:, 0] > 0.8).long()
CPU = torch.device("cpu")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(2, 2)


def ordered(outputs: Tensor, targets: Tensor) -> float:
    """Depends on every sample and on their order."""
    return float((outputs[:, 0] * torch.arange(len(outputs)) * (1 + targets)).sum())


def random(outputs: Tensor, targets: Tensor) -> float:
    return float(torch.rand(()))


class Total:
    """Combines what the processes have, as torchmetrics does where sync_on_compute is set."""

    sync_on_compute = True

    def reset(self) -> None:
        self.total = torch.zeros(())

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.total += outputs.sum()

    def compute(self) -> Tensor:
        torch.distributed.all_reduce(self.total)
        return self.total


@pytest.mark.parametrize("samples", [N, 2])
def test_all_processes_find_what_one_finds(together: Any, samples: int) -> None:
    def work(rank: int) -> dict[str, float]:
        torch.manual_seed(rank)
        metrics = Metrics({"ordered": ordered, "total": Total(), "random": random})
        source = as_source((X[:samples], Y[:samples]))
        model = network()
        torch.manual_seed(rank)
        return evaluate(model, F.cross_entropy, source, CPU, ProcessGroup.present(), metrics=metrics)

    results = together(3, work)
    alone = evaluate(
        network(), F.cross_entropy, as_source((X[:samples], Y[:samples])), CPU, metrics=Metrics({"ordered": ordered})
    )
    assert results[0] == results[1] == results[2]
    with torch.no_grad():
        assert results[0]["total"] == pytest.approx(float(network()(X[:samples]).sum()), abs=1e-4)
    assert results[0]["ordered"] == pytest.approx(alone["ordered"], rel=1e-4)


class Count:
    """Knows of one process only."""

    def reset(self) -> None: ...

    def update(self, outputs: Tensor, targets: Tensor) -> None: ...

    def compute(self) -> float:
        return 0.0


def test_objects_of_one_process_are_refused(together: Any) -> None:
    def work(rank: int) -> str:
        with pytest.raises(InputError) as caught:
            fit(network(), (X, Y), valid=(X, Y), metrics={"count": Count()}, epochs=1, progress=False)
        return str(caught.value)

    assert all(
        "counts the samples of one process, and there are 2: pass a function" in text for text in together(2, work)
    )


def test_a_target_ends_all_processes(together: Any) -> None:
    def work(rank: int) -> tuple[str, float]:
        run = fit(
            network(), (X, Y), valid=(X, Y), metrics={"ordered": ordered}, stop_at={"ordered": -1e9},
            batch_size=16, lr=0.1, epochs=3, progress=False,
        )  # fmt: skip
        return run.stopped, run.best["ordered"]

    (first, value), second = together(2, work)
    assert first.startswith("target reached: ordered") and second == (first, value)
