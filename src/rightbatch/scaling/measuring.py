"""Samples per second of several processes on this machine, and whether their decisions agree."""

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing.spawn import spawn

from ..errors import InputError
from ..loop import AutoBatch

SAMPLES, FEATURES, CLASSES, WIDTH = 20_000, 784, 10, 256
WARM_UP_STEPS = 10
PATIENCE = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class Measured:
    """The result of a measurement.

    Args:
        processes: W.
        samples_per_s: of all processes, at the fixed batch size.
        batch: the fixed batch size, of all processes together.
        decisions: the digest of the decisions of each process in a second run, with a time-dependent batch size.
        steps: steps of that run.
    """

    processes: int
    samples_per_s: float
    batch: int
    decisions: tuple[int, ...]
    steps: int

    @property
    def agree(self) -> bool:
        """Whether all processes decided the same."""
        return len(set(self.decisions)) == 1


def measure(processes: int, batch: int = 256, seconds: float = 3.0) -> Measured:
    """Train a network of 270,000 weights in several CPU processes with one thread each.

    Args:
        processes: number of processes.
        batch: the fixed batch size.
        seconds: training time at that size, and again with the default batch-size rule.

    Raises:
        InputError: fewer than 1 process.
    """
    if processes < 1:
        raise InputError(f"processes is {processes}: it must be at least 1.")
    context = torch.multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        answers = context.SimpleQueue()
        spawn(_train, (processes, folder, batch, seconds, answers), nprocs=processes)  # type: ignore[no-untyped-call]
        found = sorted(answers.get() for _ in range(processes))
    _, rate, _, steps = found[0]
    return Measured(processes, rate, batch, tuple(decisions for _, _, decisions, _ in found), steps)


def _train(rank: int, size: int, folder: str, batch: int, seconds: float, answers: Any) -> None:
    """The main function of a process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = (Path(folder) / "store").as_uri()
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size, timeout=PATIENCE)
    data = torch.randn(SAMPLES, FEATURES), torch.randint(CLASSES, (SAMPLES,))
    rate, _, _ = _loop(data, batch, seconds)
    _, decisions, steps = _loop(data, "sweet-spot", seconds)
    answers.put((rank, rate, decisions, steps))
    dist.barrier()
    dist.destroy_process_group()


def _loop(data: Sequence[torch.Tensor], batch: int | str, seconds: float) -> tuple[float, int, int]:
    """Samples per second, the digest of decisions and the number of steps."""
    model = nn.Sequential(
        nn.Linear(FEATURES, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES)
    )
    auto = AutoBatch(model, torch.optim.SGD(model.parameters(), 0.01), tuple(data), batch, epochs=10**6)
    begin_s, begin_samples = time.perf_counter(), 0
    for x, y in auto:
        auto.backward(nn.functional.cross_entropy(model(x), y))
        if not auto.step():
            continue
        if auto.steps == WARM_UP_STEPS:
            begin_s, begin_samples = time.perf_counter(), auto.samples
        (over, *_) = auto.sync.agreed(time.perf_counter() - begin_s > seconds, False, False)
        if over and auto.steps > WARM_UP_STEPS:
            break
    rate = (auto.samples - begin_samples) / (time.perf_counter() - begin_s)
    return rate, auto.sync.decisions, auto.steps
