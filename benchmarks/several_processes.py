"""What training in several processes costs beside a bare DistributedDataParallel loop.

    torchrun --standalone --nproc-per-node 2 benchmarks/several_processes.py [--batch-size 64] [--width 64]

Both sides train the same network with SGD at a fixed batch, each process on its share. They take turns; each pair gives
one ratio of seconds per step, and the median of seven is printed.
"""

import argparse
import statistics
import time

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import rightbatch

SAMPLES, FEATURES, CLASSES = 20_000, 784, 10
WARM_UP_STEPS, STEPS, PAIRS = 5, 200, 7


def network(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(FEATURES, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CLASSES)
    )


def bare(x: torch.Tensor, y: torch.Tensor, batch: int, width: int) -> float:
    """Seconds of a step of DDP's own."""
    model = DistributedDataParallel(network(width))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    order = torch.randperm(SAMPLES)
    share, begin_s = batch // dist.get_world_size(), 0.0
    for step in range(WARM_UP_STEPS + STEPS):
        if step == WARM_UP_STEPS:
            dist.barrier()
            begin_s = time.perf_counter()
        start = step * batch % (SAMPLES - batch) + dist.get_rank() * share
        rows = order[start : start + share]
        optimizer.zero_grad()
        cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    return (time.perf_counter() - begin_s) / STEPS


def ours(x: torch.Tensor, y: torch.Tensor, batch: int, width: int) -> float:
    """Seconds of a step of AutoBatch."""
    model = network(width)
    auto = rightbatch.AutoBatch(model, torch.optim.SGD(model.parameters(), 0.01), (x, y), batch, epochs=10**6)
    begin_s = 0.0
    for inputs, targets in auto:
        if auto.steps == WARM_UP_STEPS:
            dist.barrier()
            begin_s = time.perf_counter()
        auto.backward(cross_entropy(model(inputs), targets))
        auto.step()
        if auto.steps == WARM_UP_STEPS + STEPS:
            break
    return (time.perf_counter() - begin_s) / STEPS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=64, help="samples in a batch, over all processes")
    parser.add_argument("--width", type=int, default=64, help="of the network")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group()
    x, y = torch.randn(SAMPLES, FEATURES), torch.randint(CLASSES, (SAMPLES,))
    pairs = [(bare(x, y, options.batch, options.width), ours(x, y, options.batch, options.width)) for _ in range(PAIRS)]
    if dist.get_rank() == 0:
        ratios = sorted(own / plain for plain, own in pairs)
        plain_ms = 1e3 * statistics.median(plain for plain, _ in pairs)
        print(f"{dist.get_world_size()} processes, batch {options.batch}, width {options.width}: {plain_ms:.2f} ms a")
        print(f"step of DDP, {statistics.median(ratios):.2f} times that ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
