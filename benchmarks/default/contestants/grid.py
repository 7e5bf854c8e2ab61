"""The tuned runs: SGD with momentum and Adam over batch sizes and learning rates, each with a cosine to zero."""

from dataclasses import dataclass

import torch
from torch import nn

from ..clock import Horizon, Trajectory
from ..problem import Problem
from .contestant import Method, cosine, trained

BATCH_SIZES = (32, 128, 512)
RATES = {"sgd": (0.01, 0.05, 0.25), "adam": (0.0005, 0.002, 0.008)}


@dataclass(frozen=True)
class Cell:
    """One setting of the grid."""

    optimizer: str
    batch_size: int
    lr: float

    @property
    def name(self) -> str:
        """Such as adam-32-0.002."""
        return f"{self.optimizer}-{self.batch_size}-{self.lr:g}"

    @property
    def version(self) -> str:
        """There is one."""
        return ""

    def run(self, problem: Problem, seed: int, horizon: Horizon) -> Trajectory:
        """Train within the horizon."""
        method = Method(self.name, self._optimizers, cosine, (self.batch_size, self.batch_size))
        return method.run(problem, seed, horizon)

    def _optimizers(self, model: nn.Module, steps: int) -> list[torch.optim.Optimizer]:
        parameters = trained(model)
        if self.optimizer == "sgd":
            return [torch.optim.SGD(parameters, lr=self.lr, momentum=0.9, nesterov=True, fused=True)]
        return [torch.optim.Adam(parameters, lr=self.lr, fused=True)]


GRID = [Cell(optimizer, size, lr) for optimizer, rates in RATES.items() for size in BATCH_SIZES for lr in rates]
