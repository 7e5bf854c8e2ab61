"""A batch size that goes up and down."""

from dataclasses import dataclass
from typing import ClassVar

from ...errors import InputError
from ...ranges import require_whole
from ..stages import length_samples, require_length
from .schedule import Course, Schedule


@dataclass(frozen=True, slots=True)
class Cyclic(Schedule):
    """Let the batch go from `least` up to `most` and back in every cycle, linearly in the examples seen.

        b = least + (most - least) · (1 - |2u - 1|),    u = s/T - ⌊s/T⌋

    | symbol | argument | meaning |
    |---|---|---|
    | s | samples | examples consumed before the batch |
    | T | every_epochs, every_samples | length of a cycle |

    Large batches do for the noise what small rates do: a cycle of the batch is a cycle of the rate upside down.

    Args:
        least: smallest batch.
        most: largest batch.
        every_epochs: T in passes over the data.
        every_samples: T in examples; None leaves that to every_epochs.

    Raises:
        InputError: a setting out of its range, or least above most.

    Reference: the triangular wave of L. N. Smith, "Cyclical Learning Rates for Training Neural Networks" (WACV 2017,
    arXiv 1506.01186), section 3, there of the learning rate.
    """

    least: int = 32
    most: int = 256
    every_epochs: float = 4.0
    every_samples: int | None = None

    name: ClassVar[str] = "cyclic"

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        require_whole("Cyclic.least", self.least, least=1)
        require_whole("Cyclic.most", self.most, least=1)
        if self.most < self.least:
            raise InputError(f"Cyclic.most is {self.most}, less than its least, {self.least}: exchange them.")
        require_length("Cyclic.every", self.every_epochs, self.every_samples)

    def _size(self, course: Course) -> int:
        share = course.samples / length_samples(self.every_epochs, self.every_samples, course.train_samples) % 1.0
        return round(self.least + (self.most - self.least) * (1 - abs(2 * share - 1)))
