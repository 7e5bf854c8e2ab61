"""What a contestant is, and the plain loop that most of them share."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ..clock import Checks, Clock, Horizon, Trajectory, one_thread
from ..problem import Problem

Evaluated = Callable[[nn.Module, list[torch.optim.Optimizer], Problem], AbstractContextManager[None]]


class Contestant(Protocol):
    """Something that trains a problem's model within a horizon."""

    @property
    def name(self) -> str:
        """In tables and in the cache."""
        ...

    @property
    def version(self) -> str:
        """Stored runs of another version are made again."""
        ...

    def run(self, problem: Problem, seed: int, horizon: Horizon) -> Trajectory:
        """Train the model of this seed and return what happened; the same arguments give the same numbers."""
        ...


def constant(progress: float) -> float:
    """No schedule."""
    return 1.0


def linear(progress: float) -> float:
    """From 1 to 0 along a line."""
    return max(0.0, 1 - progress)


def cosine(progress: float) -> float:
    """From 1 to 0 along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


@dataclass(frozen=True)
class Method:
    """One or more torch optimizers, a schedule and a batch size.

    Args:
        name: of the contestant.
        make: the optimizers of a model, each for a part of its parameters; (model, steps) -> optimizers.
        schedule: what the learning rates are multiplied by, as a function of the progress.
        batch_size: for a horizon in epochs, and for one in units of time.
        evaluated: of model, optimizers and problem, a context in which the model holds the iterate to evaluate.
        version: of the library it comes from.
    """

    name: str
    make: Callable[[nn.Module, int], list[torch.optim.Optimizer]]
    schedule: Callable[[float], float] = linear
    batch_size: tuple[int, int] = (32, 128)
    evaluated: Evaluated | None = None
    version: str = ""

    def run(self, problem: Problem, seed: int, horizon: Horizon) -> Trajectory:
        """Train in a plain loop."""
        batch_size = min(self.batch_size[0 if horizon.units is None else 1], problem.samples)
        with one_thread(seed):
            return self._train(problem, seed, horizon, batch_size)

    def _train(self, problem: Problem, seed: int, horizon: Horizon, batch_size: int) -> Trajectory:
        model = problem.make_model(seed)
        clock = Clock(problem.half_performance)
        checks = Checks(problem, model, clock)
        steps = round(horizon.of_epochs(problem, batch_size) / (problem.half_performance + batch_size))
        optimizers = self.make(model, steps)
        rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
        progress = 0.0
        for index in batches(problem.samples, batch_size, seed):
            factor = self.schedule(progress)
            for optimizer, given in zip(optimizers, rates, strict=True):
                for group, lr in zip(optimizer.param_groups, given, strict=True):
                    group["lr"] = lr * factor
                optimizer.zero_grad()
            problem.batch_loss(model, index).backward()
            for optimizer in optimizers:
                optimizer.step()
            clock.charge(len(index))
            progress = horizon.progress(problem, clock)
            if checks.due(progress):
                with nullcontext() if self.evaluated is None else self.evaluated(model, optimizers, problem):
                    checks.check(progress)
            if checks.failed or progress >= 1 - 1e-9:
                return checks.ship(batch_size=batch_size)
        raise AssertionError("batches never end")


def batches(samples: int, size: int, seed: int) -> Iterator[Tensor]:
    """Indices of shuffled batches without end; the last of an epoch may be smaller."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(samples, generator=generator).split(size)


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that are not frozen."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
