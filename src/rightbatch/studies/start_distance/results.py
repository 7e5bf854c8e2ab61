"""Which batch sizes and rates the distances are of, and what is read off one run."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..experiment import Result

Cell = tuple[int, float, int]  # batch size, learning rate, seed


@dataclass(frozen=True)
class DistanceGrid:
    """Sizes and rates that are run.

    Args:
        sizes: batch sizes, the smallest first.
        rates: learning rates, the same at every size.
        samples: that each run consumes.
    """

    sizes: tuple[int, ...]
    rates: tuple[float, ...]
    samples: int

    @property
    def steps(self) -> int:
        """That the largest batch takes; all are compared after so many as well."""
        return self.samples // max(self.sizes)

    def scaled(self, size: int) -> float:
        """The first rate, scaled linearly."""
        return self.rates[0] * size / self.sizes[0]


def best(result: Result) -> tuple[float, float]:
    """Distance and test loss where that is least."""
    least = int(np.argmin(np.nan_to_num(result["losses"], nan=math.inf)))
    return result["distances"][least], result["losses"][least]


def after(result: Result, step: int) -> float:
    """The distance after so many steps."""
    return float(result["distances"][result["steps"].index(step)])


def seeds_of(cells: Iterable[Cell]) -> list[int]:
    """Those that have runs."""
    return sorted({seed for _, _, seed in cells})
