"""What a learning-rate range test found: the curve, three suggestions read off it, text and picture."""

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
    """The answer of `find_lr`.

    Args:
        rates: learning rates, ascending; each was used for one step.
        losses: the batch's loss before that step, so at the end of those with all smaller rates.
        smoothed: these, averaged exponentially and corrected for the start.
        samples: of every step.
        optimizer: whose rate it is.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    samples: int
    optimizer: str

    @property
    def told(self) -> bool:
        """Whether the smoothed loss fell by 1 % at all; if not, there is no suggestion."""
        return min(self.smoothed) < self.smoothed[0] - LEAST_DROP * abs(self.smoothed[0])

    @property
    def valley(self) -> float | None:
        """The middle, on the logarithmic axis, of the longest falling subsequence of the smoothed loss."""
        if not self.told:
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
        """Where the smoothed loss falls fastest in the logarithm of the rate, before its minimum."""
        if not self.told:
            return None
        slopes = np.gradient(self.smoothed, np.log(self.rates))
        return self.rates[int(np.argmin(slopes[: self._least + 1]))]

    @property
    def tenth_of_minimum(self) -> float | None:
        """A tenth of the rate at which the smoothed loss was least."""
        return self.rates[self._least] / 10 if self.told else None

    @property
    def _least(self) -> int:
        return int(np.argmin(self.smoothed))

    def __str__(self) -> str:
        head = (
            f"Learning rates from {number(self.rates[0])} to {number(self.rates[-1])}, {len(self.rates)} steps of "
            f"{self.optimizer} on {self.samples} samples"
        )
        if not self.told:
            return f"{head}\n  no suggestion: the loss never fell by 1 %"
        found = {"valley": self.valley, "steepest": self.steepest, "tenth of minimum": self.tenth_of_minimum}
        return "\n".join([head, *(f"  {name:<18}{number(rate or 0.0, 2)}" for name, rate in found.items())])

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the losses, the smoothed curve and the suggestions into a file: .png, .svg or .pdf.

        Raises:
            InputError: another ending, or the file cannot be written.
            MissingExtraError: matplotlib is not installed.
        """
        marks = {"valley": self.valley, "steepest": self.steepest, "tenth of minimum": self.tenth_of_minimum}
        figure = rate_figure(
            self.rates, self.losses, self.smoothed, {name: rate for name, rate in marks.items() if rate is not None}
        )
        save_figure(figure, path)
