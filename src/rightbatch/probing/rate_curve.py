"""The result of a learning-rate range test: the curve, three suggestions, text and figure."""

import math
import os
from dataclasses import dataclass

import numpy as np

from ..report.rate_figure import rate_figure
from ..report.saving import save_figure
from ..report.words import number

LEAST_DROP = 0.01  # of the first loss


@dataclass(frozen=True, slots=True)
class RateCurve:
    """The result of `find_lr`.

    Args:
        rates: increasing learning rates, each used for one step.
        losses: the batch's loss before that step, after the steps with all smaller rates.
        smoothed: their exponential average with bias correction.
        samples: batch size of every step.
        optimizer: name of the optimizer that the rates are for.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    samples: int
    optimizer: str

    @property
    def found(self) -> bool:
        """Whether the smoothed loss fell by 1 %; if not, there are no suggestions."""
        return min(self.smoothed) < self.smoothed[0] - LEAST_DROP * abs(self.smoothed[0])

    @property
    def valley(self) -> float | None:
        """The midpoint, on a logarithmic axis, of the longest decreasing subsequence of the smoothed loss."""
        if not self.found:
            return None
        length, previous = [1] * len(self.smoothed), [-1] * len(self.smoothed)
        for i, loss in enumerate(self.smoothed):
            for j in range(i):
                if self.smoothed[j] > loss and length[j] >= length[i]:
                    length[i], previous[i] = length[j] + 1, j
        first = last = int(np.argmax(length))
        while previous[first] >= 0:
            first = previous[first]
        return math.sqrt(self.rates[first] * self.rates[last])

    @property
    def steepest(self) -> float | None:
        """The rate before the minimum at which the smoothed loss falls fastest, over the logarithm of the rate."""
        if not self.found:
            return None
        slopes = np.gradient(self.smoothed, np.log(self.rates))
        return self.rates[int(np.argmin(slopes[: self._least + 1]))]

    @property
    def tenth_of_minimum(self) -> float | None:
        """A tenth of the rate at the minimum of the smoothed loss."""
        return self.rates[self._least] / 10 if self.found else None

    @property
    def _least(self) -> int:
        return int(np.argmin(self.smoothed))

    def __str__(self) -> str:
        head = (
            f"Learning rates from {number(self.rates[0])} to {number(self.rates[-1])}, {len(self.rates)} steps of "
            f"{self.optimizer} on {self.samples} samples"
        )
        if not self.found:
            return f"{head}\n  no suggestion: the loss did not fall by 1 %"
        rates = {"valley": self.valley, "steepest": self.steepest, "tenth of minimum": self.tenth_of_minimum}
        return "\n".join([head, *(f"  {name:<18}{number(rate or 0.0, 2)}" for name, rate in rates.items())])

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Save a figure of the losses, the smoothed curve and the suggestions as .png, .svg or .pdf.

        Raises:
            InputError: the suffix is not supported, or the file cannot be written.
            MissingExtraError: matplotlib is not installed.
        """
        marks = {"valley": self.valley, "steepest": self.steepest, "tenth of minimum": self.tenth_of_minimum}
        figure = rate_figure(
            self.rates, self.losses, self.smoothed, {name: rate for name, rate in marks.items() if rate is not None}
        )
        save_figure(figure, path)
