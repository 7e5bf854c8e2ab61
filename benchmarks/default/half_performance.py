"""Measure n½ of the problems on this machine: where the constants of the simulated clock come from.

`python -m default.half_performance [problem ...]` in the folder benchmarks.
"""

import statistics
import sys
import time

import numpy as np
import torch

from .contestants.contestant import trained
from .problem import PARTS, Problem, names, problem

SIZES = (8, 16, 32, 64, 128, 256, 512)
ROUNDS, STEPS = 5, 4


def measure(of: Problem) -> float:
    """n½ from the line t0 + t1·B through median processor seconds of Adam's steps, weighted by 1/t."""
    model = of.make_model(0)
    optimizer = torch.optim.Adam(trained(model), lr=1e-6, fused=True)
    sizes = [size for size in SIZES if size <= of.samples]
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    for turn in range(ROUNDS):
        for size in sizes:
            for _ in range(STEPS):
                index = torch.randint(of.samples, (size,))
                start = time.process_time()
                optimizer.zero_grad()
                of.batch_loss(model, index).backward()
                optimizer.step()
                if turn:
                    seconds[size].append(time.process_time() - start)
    medians = np.array([statistics.median(seconds[size]) for size in sizes])
    rows = np.stack([1 / medians, np.array(sizes) / medians], 1)
    fixed, per_example = np.linalg.lstsq(rows, np.ones(len(sizes)), rcond=None)[0]
    return float(max(fixed, 2 * per_example) / per_example)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or [name for part in PARTS for name in names(part)]:
        print(f"{name} {float(f'{measure(problem(name)):.2g}'):g}", flush=True)
