"""Train one model in several processes, on one machine or many: the loop of one process, started by torchrun.

    torchrun --standalone --nproc-per-node 2 examples/several_processes.py
    torchrun --standalone --nproc-per-node 2 examples/several_processes.py --folder runs/several
    torchrun --standalone --nproc-per-node 2 examples/several_processes.py --folder runs/several --shard
    python examples/several_processes.py                                                          one process

The batch is that of all processes together: each gets its share, and all take the same steps. Run the second command
again to resume, with any number of processes; the third command does the same with parameters and optimizer state
sharded over the processes.
"""

import argparse
import os

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F

import rightbatch
from rightbatch.loop.distributed import end_process_group


def begin() -> torch.device:
    """Initialize the process group: NCCL for GPUs, gloo for CPUs."""
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    if "RANK" in os.environ:  # set by torchrun
        dist.init_process_group()
    return device


def main() -> None:
    """Train, and end the process group once nothing refers to the model any more."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="train with rightbatch.fit in this run folder, or resume the run in it")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--shard", action="store_true", help="spread the parameters over the processes (FSDP2)")
    options = parser.parse_args()
    train(options, begin())
    end_process_group()


def train(options: argparse.Namespace, device: torch.device) -> None:
    """Train by a loop of one's own, or by `fit` into a folder."""
    speaks = not dist.is_initialized() or dist.get_rank() == 0
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(20_000, 50, generator=generator)
    targets = (inputs @ torch.randn(50, 10, generator=generator)).argmax(1)
    torch.manual_seed(0)  # all must begin with the same parameters before they are spread
    model = nn.Sequential(nn.Linear(50, 64), nn.ReLU(), nn.Linear(64, 10)).to(device)
    if options.shard:
        fully_shard(model)
    data = (inputs[:16_000], targets[:16_000])

    if options.folder:
        valid = (inputs[16_000:], targets[16_000:])
        run = rightbatch.fit(model, data, valid=valid, epochs=options.epochs, run_dir=options.folder, resume=True)
        if speaks:
            print(f"{run.stopped}; validation accuracy {run.best['valid_accuracy']:.3f}")
    else:
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        auto = rightbatch.AutoBatch(model, optimizer, data, epochs=options.epochs)
        for x, y in auto:  # of each micro-batch this process's share
            auto.backward(F.cross_entropy(model(x), y))
            auto.step()
        if speaks:
            print(f"{auto.samples:,} samples in {auto.steps:,} steps, the last of {auto.last['batch_size']:,}")


if __name__ == "__main__":
    main()
