"""What a problem of the arena is, and where it is registered."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .data import Pair, Split

PARTS = ("design", "confirmation", "sealed")
EVALUATED_AT_ONCE = 500


@dataclass(frozen=True)
class Problem:
    """A model, its data and a budget.

    Args:
        name: of the problem.
        part: "design", to develop rules on; "confirmation", to see whether they hold; "sealed", to be run once.
        family: what kind of problem it is.
        data: to train, to validate and to test on.
        build: an untrained model; its random numbers are those of the moment.
        epochs: passes over the training data.
        half_performance: n½, the examples that take as long as the fixed part of a step.
        loss: the mean over a batch, of outputs and targets.
    """

    name: str
    part: str
    family: str
    data: Split
    build: Callable[[], nn.Module]
    epochs: int
    half_performance: float
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy

    @property
    def samples(self) -> int:
        """Of the training data."""
        return len(self.data.train[0])

    def make_model(self, seed: int) -> nn.Module:
        """The untrained model of a seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1000 + seed)
            return self.build()

    def batch_loss(self, model: nn.Module, index: Tensor) -> Tensor:
        """The mean loss over these training samples."""
        x, y = self.data.train
        return self.loss(model(x[index]), y[index])

    def valid_loss(self, model: nn.Module) -> float:
        """The mean loss on the validation data, in evaluation mode; infinity if it is not finite."""
        return self._mean_loss(model, self.data.valid)

    def test_loss(self, model: nn.Module) -> float:
        """The same on the test data."""
        return self._mean_loss(model, self.data.test)

    def _mean_loss(self, model: nn.Module, pair: Pair) -> float:
        total = 0.0
        with evaluating(model):
            for x, y in zip(*(tensor.split(EVALUATED_AT_ONCE) for tensor in pair), strict=True):
                total += float(self.loss(model(x), y)) * len(x)
        mean = total / len(pair[0])
        return mean if math.isfinite(mean) else math.inf


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients, training mode afterwards."""
    model.eval()
    with torch.no_grad():
        yield
    model.train()


@dataclass(frozen=True)
class Entry:
    """A problem that has not been made yet: data are read when it is."""

    part: str
    family: str
    epochs: int
    half_performance: float
    make: Callable[[], tuple[Split, Callable[[], nn.Module]]]
    loss: Callable[[Tensor, Tensor], Tensor]


ENTRIES: dict[str, Entry] = {}


def register(
    part: str,
    family: str,
    epochs: int,
    half_performance: float,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> Callable[[Callable[[], tuple[Split, Callable[[], nn.Module]]]], None]:
    """Register a function that returns data and a function that builds the model, under its name."""

    def add(make: Callable[[], tuple[Split, Callable[[], nn.Module]]]) -> None:
        ENTRIES[make.__name__] = Entry(part, family, epochs, half_performance, make, loss)

    return add


def names(part: str) -> list[str]:
    """The problems of a part."""
    from . import problems  # noqa: F401 - registers them

    return [name for name, entry in ENTRIES.items() if entry.part == part]


@cache
def problem(name: str) -> Problem:
    """The problem of that name, made once."""
    known = [known for part in PARTS for known in names(part)]
    if name not in known:
        raise ValueError(f"No problem is named {name!r}; there are {', '.join(known)}.")
    entry = ENTRIES[name]
    data, build = entry.make()
    return Problem(name, entry.part, entry.family, data, build, entry.epochs, entry.half_performance, entry.loss)
