"""Small problems for checks in real training: a quadratic, a logistic regression, a network."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import blobs, load, quadratic

N = 64
MOST_FROM_A_PATH = 512


@dataclass(frozen=True, slots=True)
class TrainedProblem:
    """A model, its data and its loss, in double precision.

    Args:
        make: returns the initial model, always the same.
        data: inputs and targets.
        loss: the mean over the samples.
    """

    make: Callable[[], nn.Module]
    data: tuple[Tensor, Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]


def known_noise() -> TrainedProblem:
    """A quadratic with known gradient noise."""
    problem = quadratic(N, features=4, distance=1.0, dtype=torch.float64)
    x, y = problem.source.fetch(torch.arange(N))
    return TrainedProblem(problem.model, (x, y), F.mse_loss)


def logistic(path: str | os.PathLike[str] | None = None) -> TrainedProblem:
    """A logistic regression on sparse binary features like those of a9a, or on the first samples at `path`."""
    if path is None:
        generator = torch.Generator().manual_seed(0)
        x = (torch.rand(N, 20, generator=generator) < 0.2).double()
        noise = torch.randn(N, generator=generator, dtype=torch.float64)
        y = (x @ torch.linspace(-2, 2, 20, dtype=torch.float64) + 0.5 * noise > 0).double()
    else:
        source = load(str(path)).train
        x, y = (t.double() for t in source.fetch(torch.arange(min(len(source), MOST_FROM_A_PATH))))
    features = x.shape[1]

    def make() -> nn.Module:
        model = nn.Linear(features, 1).double()
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)
        return model

    return TrainedProblem(make, (x, y.reshape(-1, 1)), F.binary_cross_entropy_with_logits)


def network() -> TrainedProblem:
    """A network with one hidden layer that classifies three clouds of points."""
    x, y = blobs(N).fetch(torch.arange(N))

    def make() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3)).double()

    return TrainedProblem(make, (x.double() / 10, y), F.cross_entropy)


PROBLEMS: dict[str, Callable[[], TrainedProblem]] = {
    "quadratic": known_noise,
    "logistic regression": logistic,
    "network": network,
}
