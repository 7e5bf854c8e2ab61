"""How often a process of a sharded run aborts at its very end, by the way in which its process group is ended.

    python benchmarks/process_end.py [--runs 40] [--ways destroy barrier end whole]

Each run trains a small model for two steps in two processes, over gloo and with torch alone, puts its parameters
together and ends. What matters is whether gloo's threads release the tensors of the last collective before the
interpreter shuts down, so these threads are served last (SCHED_IDLE, Linux only), as a busy machine may do by chance.

    destroy   torch.distributed.destroy_process_group()
    barrier   torch.distributed.barrier() before it
    end       rightbatch's end_process_group()
    whole     torch.distributed.destroy_process_group(), the model whole in each process
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import torch
import torch._dynamo  # which optimizers import: once here, not in every process
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

from rightbatch.loop.distributed import end_process_group

WAYS = ("destroy", "barrier", "end", "whole")
PROCESSES = 2


def train(shard: bool) -> None:
    """Two steps, and the parameters put together."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(50, 64), nn.ReLU(), nn.Linear(64, 10))
    if shard:
        fully_shard(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(16, 50)).square().mean().backward()
        if not shard:
            for parameter in model.parameters():
                dist.all_reduce(parameter.grad)
        optimizer.step()
    serve_last("pt_gloo_runloop")
    for parameter in model.parameters():
        if shard:
            parameter.full_tensor()
        else:
            dist.all_gather([torch.empty_like(parameter) for _ in range(PROCESSES)], parameter.detach())


def serve_last(name: str) -> None:
    """Let the threads of this name run only where no other wants to."""
    for thread in Path("/proc/self/task").iterdir():
        if (thread / "comm").read_text().strip() == name:
            os.sched_setscheduler(int(thread.name), os.SCHED_IDLE, os.sched_param(0))


def work(way: str, rank: int, store: Path) -> None:
    """What one process does before its program ends."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=PROCESSES)
    train(shard=way != "whole")
    if way == "end":
        end_process_group()
        return
    if way == "barrier":
        dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    """Count the runs in which a process aborts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    folder = Path(tempfile.mkdtemp())
    for way in options.ways:
        aborted = 0
        for run in range(options.runs):
            processes = []
            for rank in range(PROCESSES):
                process = os.fork()
                if process == 0:
                    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
                    work(way, rank, folder / f"{way}{run}")
                    return  # to the interpreter's shutdown, which is what is tried
                processes.append(process)
            codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
            aborted += -signal.SIGABRT in codes
        print(f"{way}: {aborted} of {options.runs} runs", flush=True)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
