"""Seconds of the processor that a step takes at several batch sizes, measured in turns."""

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import TYPE_CHECKING

from .plain_steps import plain_steps
from .subject import Subject, everything

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

BURST = 4  # steps of one size in a row, the first of which finds the caches full of another's and does not count
LEAST_ROUNDS, MOST_ROUNDS = 4, 60


def step_times(
    subject: Subject, sizes: Sequence[int], made: "Callable[[nn.Module], Optimizer]", seconds: float
) -> list[float]:
    """The median processor seconds of a step of every size.

    The seconds are this process's own, not the wall's: where other work is on the machine, steps longer than a slice of
    time are interrupted and shorter ones are not, so that the wall would favour small batches. With one thread and
    nothing else to do the two agree. All sizes are visited in turns, forth and back, a few steps each time. Every size
    trains a model of its own, from the same initial parameters.

    Args:
        subject: data and model.
        sizes: batch sizes.
        made: the optimizer, of a model; its learning rate had better be tiny, so that nothing diverges.
        seconds: on the wall, after which no further round is begun; four rounds are made in any case.
    """
    from ..fitting.losses import default_loss

    train, _ = subject.sources()
    (x, y), loss = everything(train), default_loss(train)
    runs = []
    for size in sizes:
        model = subject.network(seed=0)
        runs.append(plain_steps(model, loss, x, y, size, made(model), seed=0))
    times: list[list[float]] = [[] for _ in sizes]
    start, done = time.perf_counter(), 0
    while done < LEAST_ROUNDS or (done < MOST_ROUNDS and time.perf_counter() - start < seconds):
        for k in range(len(sizes))[:: 1 if done % 2 else -1]:
            for step in range(BURST):
                before = time.process_time()
                next(runs[k])
                if done and step:  # the first round sets up the optimizer's state
                    times[k].append(time.process_time() - before)
        done += 1
    return [median(each) for each in times]
