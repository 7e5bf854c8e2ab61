"""Rightbatch as it is: `fit(model, train, loss, valid=...)` with nothing but its horizon given."""

from dataclasses import dataclass

from ..clock import Horizon, Trajectory
from ..problem import Problem


@dataclass(frozen=True)
class Rightbatch:
    """`rightbatch.fit` under the simulated clock."""

    name: str = "Rightbatch"
    version: str = ""

    def run(self, problem: Problem, seed: int, horizon: Horizon) -> Trajectory:
        """Train within the horizon."""
        raise NotImplementedError
