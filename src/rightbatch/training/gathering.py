"""One batch while it is being gathered: what it has consumed and what its micro-batches have said."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

from torch import Tensor

from ..data import Interval
from ..decision import Decision


@dataclass(slots=True)
class Gathering:
    """The batch being gathered.

    Micro-batch j of m_j examples is differentiated with weight m_j/reference, whatever the batch will turn out to
    hold; once it is complete, gradients times `scale` = reference/examples are those of the mean over the whole
    batch, for any split.

    Args:
        origin: (epoch, position) of the first example, to go back to if the batch is abandoned.
        reference: examples the weights refer to; the batch size planned.
        measured: whether the noise is measured on this batch.
        compared: whether its micro-batches are cut to be timed against each other.
        witness: a parameter that got a gradient; should it lose it before the step, gradients were cleared meanwhile.
        times_s: (examples, seconds) of each micro-batch, where they are compared.
        random: the states of the random generators before each micro-batch, where trial steps will repeat it.
        growth: the last decision that enlarged it.
        size_state: the batch rule's state after that decision; it becomes the run's once the batch is complete.
    """

    origin: tuple[int, int]
    reference: int
    measured: bool
    compared: bool = False
    witness: Tensor | None = None
    times_s: list[tuple[int, float]] = field(default_factory=list)
    intervals: list[Interval] = field(default_factory=list)
    pieces: list[Interval] = field(default_factory=list)
    random: list[list[Tensor]] = field(default_factory=list)
    examples: int = 0
    loss_sum: float = 0.0
    trial_loss_sum: float = 0.0
    gradient_norm2: float = math.nan
    seconds: float = 0.0
    growth: Decision | None = None
    size_state: Any = None
    failed: str = ""

    @property
    def scale(self) -> float:
        """What accumulated gradients must be multiplied by."""
        return self.reference / max(1, self.examples)

    @property
    def loss(self) -> float:
        """Mean loss at the present parameters; nan if the batch failed."""
        return math.nan if self.failed else self.loss_sum / max(1, self.examples)


def cut(interval: Interval, count: int) -> list[Interval]:
    """Cut an interval into `count` pieces whose sizes differ by one at most."""
    size = interval.examples
    marks = [interval.start + size * i // count for i in range(count + 1)]
    return [Interval(interval.epoch, a, b) for a, b in pairwise(marks)]


def cut_into(interval: Interval, sizes: Sequence[int]) -> list[Interval]:
    """Cut an interval into pieces of the given sizes, which add up to it."""
    marks = accumulate(sizes, initial=interval.start)
    return [Interval(interval.epoch, a, b) for a, b in pairwise(marks)]
