"""A batch size that rises and falls in cycles."""

from dataclasses import dataclass
from typing import ClassVar

from ...citation import Citation
from ...errors import InputError
from ...ranges import require_whole
from ..papers import CYCLICAL
from ..stages import RunPosition, length_samples, require_length
from .schedule import BatchSizeSchedule


@dataclass(frozen=True, slots=True)
class Cyclic(BatchSizeSchedule):
    """Raise the batch size from `min_size` to `max_size` and lower it again in every cycle, linearly in the samples.

        b = min_size + (max_size - min_size) · (1 - |2u - 1|),    u = s/T - ⌊s/T⌋

    | symbol | argument | meaning |
    |---|---|---|
    | s | samples | samples consumed before the batch |
    | T | every_epochs, every_samples | length of a cycle |

    Large batches reduce the noise as small rates do: a cycle of the batch size is an inverted cycle of the rate.

    Args:
        min_size: smallest batch size.
        max_size: largest batch.
        every_epochs: T in passes over the data.
        every_samples: T in samples; takes precedence over every_epochs.

    Raises:
        InputError: a setting out of its range, or min_size above max_size.

    Reference: the triangular wave of Smith 2017, section 3. Differs: there of the learning rate.
    """

    min_size: int = 32
    max_size: int = 256
    every_epochs: float = 4.0
    every_samples: int | None = None

    name: ClassVar[str] = "cyclic"
    reference: ClassVar[Citation | None] = CYCLICAL.at("section 3")

    def __post_init__(self) -> None:
        """Check the settings."""
        require_whole("Cyclic.min_size", self.min_size, least=1)
        require_whole("Cyclic.max_size", self.max_size, least=1)
        if self.max_size < self.min_size:
            raise InputError(f"Cyclic.max_size is {self.max_size}, less than min_size, {self.min_size}: swap them.")
        require_length("Cyclic.every", self.every_epochs, self.every_samples)

    def _size(self, position: RunPosition) -> int:
        share = position.samples / length_samples(self.every_epochs, self.every_samples, position.train_samples) % 1.0
        return round(self.min_size + (self.max_size - self.min_size) * (1 - abs(2 * share - 1)))
