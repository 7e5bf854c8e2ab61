"""GeoDamp: the batch size grows geometrically with the epochs."""

from dataclasses import dataclass
from typing import ClassVar

from ...citation import Citation
from ..papers import DAMPING
from ..stages import RunPosition, undergrown
from .staged import StagedRecipe


@dataclass(frozen=True, slots=True)
class GeoDamp(StagedRecipe):
    """Multiply the batch size by a factor every so many epochs, b = b0 · β^⌊s/T⌋, and decay the rate from the cap on.

        η = η0 · min(1, max_size/(b0 · β^⌊s/T⌋))

    | symbol | argument | meaning |
    |---|---|---|
    | b0 | initial | first batch size |
    | β | factor | growth per stage |
    | η0 | lr | base learning rate |
    | T | every_epochs, every_samples | length of a stage |
    | s | samples | samples consumed before the batch |

    Args:
        initial: b0.
        factor: β, above 1.
        lr: η0; None takes the optimizer's own at the start.
        every_epochs: T in passes over the data.
        every_samples: T in samples; takes precedence over every_epochs.
        max_size: largest batch size; None is all the data.

    Raises:
        InputError: a setting out of its range.

    Reference: Sievert and Shah 2021, GeoDamp and its decay above the largest batch.
    """

    every_epochs: float = 5.0

    name: ClassVar[str] = "geo-damp"
    reference: ClassVar[Citation | None] = DAMPING.at("GeoDamp")

    def lr_share(self, at: RunPosition) -> float:
        """What the cap takes off the growth of the batch size."""
        return undergrown(self.initial, self.factor, self._stages(at), self._cap(at))
