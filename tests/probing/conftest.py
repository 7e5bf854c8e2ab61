"""What the tests of probing share: models that take as long as they are told, by a clock that else stands still."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from rightbatch import data
from rightbatch.probing import Advice
from rightbatch.probing.run import _probe

Seconds = Callable[[int], float]


@dataclass
class Clock:
    """Shows `now`; every forward pass of a `Timed` model moves it on."""

    now: float = 0.0
    sizes: list[int] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now


class Timed(nn.Module):
    """A model whose forward pass on b samples takes seconds(b), and which runs out of memory where told to."""

    def __init__(self, inner: nn.Module, seconds: Seconds, clock: Clock) -> None:
        super().__init__()
        self.inner = inner
        self.seconds = seconds
        self.clock = clock
        self.fail: Callable[[int], None] = lambda samples: None

    def forward(self, x: Tensor) -> Tensor:
        if self.training:  # the trial of model and loss beforehand is no step
            self.fail(len(x))
            self.clock.sizes.append(len(x))
            self.clock.now += self.seconds(len(x))
        output: Tensor = self.inner(x)
        return output


@dataclass
class Bench:
    """A quadratic problem whose noise is known, in a model whose speed is known."""

    problem: data.Quadratic
    model: Timed
    clock: Clock

    def probe(self, seconds: float = 30.0, seed: int = 0, micro_batch: int | None = None) -> Advice:
        return _probe(self.model, self.problem.source, None, seconds, seed, micro_batch, self.clock)


@pytest.fixture(scope="session")
def bench() -> Callable[..., Bench]:
    """Make a bench: t(b) = t0 + t1·b seconds unless `seconds` says otherwise."""

    def make(
        n: int = 512, t0: float = 1e-3, t1: float = 1e-5, seconds: Seconds | None = None, distance: float = 1.0
    ) -> Bench:
        problem, clock = data.quadratic(n, features=4, distance=distance, dtype=torch.float64), Clock()
        return Bench(problem, Timed(problem.model(), seconds or (lambda b: t0 + t1 * b), clock), clock)

    return make
