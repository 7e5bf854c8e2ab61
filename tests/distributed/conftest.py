"""Several processes on this machine, which train together over loopback."""

import multiprocessing
import os
import pickle
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

PATIENCE_S = 300  # only a process that hangs takes so long, not one of a busy machine


class RankError(Exception):
    """What went wrong in the processes, by rank."""


@pytest.fixture(scope="session")
def needs_sums() -> None:
    """Skips where torch cannot sum the gradients of a sharded model, which rightbatch weighs itself."""
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    if not hasattr(getattr(fsdp, "FSDPModule", None), "set_force_sum_reduction_for_comms"):
        pytest.skip("an older torch")


@pytest.fixture
def together(tmp_path: Path) -> Callable[..., list[Any]]:
    """`together(size, work)` runs `work(rank)` in so many processes and returns what each returned.

    They are forked, so that `work` may be any function and torch need not be imported again.
    """
    context = multiprocessing.get_context("fork")
    calls = 0

    def run(size: int, work: Callable[[int], Any]) -> list[Any]:
        nonlocal calls
        calls += 1
        store = tmp_path / f"store{calls}"

        def process(rank: int, pipe: Any) -> None:
            os.environ["GLOO_SOCKET_IFNAME"] = "lo"
            torch.set_num_threads(1)
            try:
                dist.init_process_group(
                    "gloo",
                    init_method=f"file://{store}",
                    rank=rank,
                    world_size=size,
                    timeout=timedelta(seconds=PATIENCE_S / 2),
                )
                pipe.send_bytes(pickle.dumps((True, work(rank))))
                dist.barrier()  # nobody leaves while another still sends
                dist.destroy_process_group()
            except BaseException as error:
                pipe.send_bytes(pickle.dumps((False, f"{type(error).__name__}: {error}\n{traceback.format_exc()}")))
            os._exit(0)

        pipes, processes = [], []
        for rank in range(size):
            here, there = context.Pipe()
            processes.append(context.Process(target=process, args=(rank, there)))
            pipes.append(here)
        for each in processes:
            each.start()
        try:
            answers = [
                pickle.loads(pipe.recv_bytes()) if pipe.poll(PATIENCE_S) else (False, "no answer") for pipe in pipes
            ]
            for each in processes:
                each.join(PATIENCE_S)
        finally:
            for each in processes:
                each.kill()
        wrong = [f"rank {rank}: {text}" for rank, (good, text) in enumerate(answers) if not good]
        if wrong:
            raise RankError("\n".join(wrong))
        return [value for _, value in answers]

    return run
