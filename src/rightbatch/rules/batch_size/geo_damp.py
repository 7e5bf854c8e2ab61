"""GeoDamp: the batch grows geometrically with the epochs."""

from dataclasses import dataclass
from typing import ClassVar

from .ada_batch import AdaBatch


@dataclass(frozen=True, slots=True)
class GeoDamp(AdaBatch):
    """Multiply the batch by a factor every so many epochs, b = b0 · β^⌊s/T⌋, and leave the rate until the cap.

    The schedule of `AdaBatch` with another pace and another rate: constant up to the largest batch, from where on the
    step rule of the same name decays it by max_size/(b0 · β^⌊s/T⌋).

    Args:
        initial: b0.
        factor: β, above 1.
        every_epochs: T in passes over the data.
        every_samples: T in samples; None leaves that to every_epochs.
        max_size: largest batch; None is all the data.

    Raises:
        InputError: a setting out of its range.

    Reference: S. Sievert, S. Shah, "Improving the convergence of SGD through adaptive batch sizes" (arXiv 1910.08222,
    2021), GeoDamp.
    """

    every_epochs: float = 5.0

    name: ClassVar[str] = "geo-damp"
