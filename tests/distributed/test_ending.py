"""The end of a run in several processes: the process group is freed, whose threads could abort the process later."""

import weakref
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import rightbatch
from rightbatch import AutoBatch
from rightbatch.loop.distributed import end_process_group

fsdp = pytest.importorskip("torch.distributed.fsdp")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))


def train(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = wrap(network())
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    x = torch.randn(64, 4)
    auto = AutoBatch(model, optimizer, (x, (x[:, 0] > 0).long()), epochs=1, seed=0)
    for inputs, targets in auto:
        auto.backward(nn.functional.cross_entropy(model(inputs), targets))
        auto.step()
    auto.finalize()
    auto.state_dict()


def fit(wrap: Callable[[nn.Module], nn.Module], folder: Path) -> None:
    x = torch.randn(64, 4)
    pair = (x, (x[:, 0] > 0).long())
    rightbatch.fit(wrap(network()), pair, valid=pair, epochs=1, run_dir=folder)


def survives(rank: int, work: Callable[[], None], store: Path) -> bool:
    """Whether the process group outlives its end after `work`; another takes its place."""
    torch.manual_seed(0)
    work()
    group = weakref.ref(dist.group.WORLD)
    dist.barrier()
    end_process_group()
    alive = group() is not None
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(seconds=30)
    )
    return alive


@pytest.mark.usefixtures("needs_sums")
def test_a_sharded_model_leaves_no_process_group(together: Any, tmp_path: Path) -> None:
    def work(rank: int) -> bool:
        return survives(rank, lambda: train(fsdp.fully_shard), tmp_path / "again")

    assert together(2, work) == [False, False]


@pytest.mark.usefixtures("needs_sums")
def test_a_sharded_fit_leaves_no_process_group(together: Any, tmp_path: Path) -> None:
    def work(rank: int) -> bool:
        return survives(rank, lambda: fit(fsdp.fully_shard, tmp_path / "run"), tmp_path / "again")

    assert together(2, work) == [False, False]


@pytest.mark.parametrize("wrap", [lambda model: model, DistributedDataParallel], ids=["whole", "ddp"])
def test_a_model_that_every_process_has_whole_leaves_no_process_group(
    wrap: Callable[[nn.Module], nn.Module], together: Any, tmp_path: Path
) -> None:
    def work(rank: int) -> bool:
        return survives(rank, lambda: train(wrap), tmp_path / "again")

    assert together(2, work) == [False, False]


def test_without_a_process_group_there_is_nothing_to_end() -> None:
    end_process_group()
    assert not dist.is_initialized()
