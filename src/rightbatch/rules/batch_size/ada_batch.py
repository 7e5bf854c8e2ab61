"""AdaBatch: the batch doubles every so many epochs, the learning rate decays the less for it."""

from dataclasses import dataclass
from typing import ClassVar

from ...ranges import require_number, require_whole
from ..stages import grown, length_samples, periods_passed, require_length
from .schedule import Course, Schedule


@dataclass(frozen=True, slots=True)
class AdaBatch(Schedule):
    """Multiply the batch by a factor every so many epochs, b = b0 · β^⌊s/T⌋; the step rule of the same name decays.

    | symbol | argument | meaning |
    |---|---|---|
    | b0 | initial | first batch |
    | β | factor | growth per stage |
    | T | every_epochs, every_samples | length of a stage |
    | s | samples | samples consumed before the batch |

    A schedule that decayed the rate by δ per stage at a fixed batch decays it by δ·β here, which leaves the rate per
    sample, α/b, as it was: 0.25 becomes 0.5 with β = 2. That is the step rule "ada-batch". Once the batch is
    `max_size`, or all the data, that no longer holds.

    Args:
        initial: b0.
        factor: β, above 1.
        every_epochs: T in passes over the data.
        every_samples: T in samples; None leaves that to every_epochs.
        max_size: largest batch; None is all the data.

    Raises:
        InputError: a setting out of its range.

    Reference: A. Devarakonda, M. Naumov, M. Garland, "AdaBatch: Adaptive Batch Sizes for Training Deep Neural
    Networks" (arXiv 1712.02029, 2017), section 4; the defaults are those of its CIFAR experiments. Its warm-up of the
    rate is not part of this rule.
    """

    initial: int = 128
    factor: float = 2.0
    every_epochs: float = 20.0
    every_samples: int | None = None
    max_size: int | None = None

    name: ClassVar[str] = "ada-batch"

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        who = type(self).__name__
        require_whole(f"{who}.initial", self.initial, least=1)
        require_number(f"{who}.factor", self.factor, above=1)
        require_length(f"{who}.every", self.every_epochs, self.every_samples)
        if self.max_size is not None:
            require_whole(f"{who}.max_size", self.max_size, least=1)

    def _size(self, course: Course) -> int:
        stages = periods_passed(
            course.samples, length_samples(self.every_epochs, self.every_samples, course.train_samples)
        )
        most = course.train_samples if self.max_size is None else min(self.max_size, course.train_samples)
        return grown(self.initial, self.factor, stages, most)
