"""The learning rate that goes with AdaBatch."""

from dataclasses import dataclass
from typing import ClassVar

from ...ranges import require_number
from ..stages import length_samples, periods_passed, require_length
from .schedule import Schedule


@dataclass(frozen=True, slots=True)
class AdaBatch(Schedule):
    """Decay the rate at every stage of the batch rule "ada-batch", η = η0 · δ^⌊s/T⌋, less for the growth of the batch.

    | symbol | argument | meaning |
    |---|---|---|
    | η0 | lr | first rate |
    | δ | decay | decay per stage: that of a fixed batch times the growth of the batch |
    | T | every_epochs, every_samples | length of a stage, as in the batch rule |
    | s | samples | samples consumed before the batch |

    Args:
        lr: η0; None takes the optimizer's own at the start.
        decay: δ; 0.5 with a batch that doubles is 0.25 with one that does not.
        every_epochs: T in passes over the data.
        every_samples: T in samples; None leaves that to every_epochs.

    Raises:
        InputError: a setting out of its range.

    Reference: A. Devarakonda, M. Naumov, M. Garland, "AdaBatch: Adaptive Batch Sizes for Training Deep Neural
    Networks" (arXiv 1712.02029, 2017), section 4; the defaults are those of its CIFAR experiments.
    """

    decay: float = 0.5
    every_epochs: float = 20.0
    every_samples: int | None = None

    name: ClassVar[str] = "ada-batch"

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        Schedule.__post_init__(self)
        require_number("AdaBatch.decay", self.decay, above=0)
        require_length("AdaBatch.every", self.every_epochs, self.every_samples)

    def _share(self, samples: int, train_samples: int, total_samples: int | None) -> float:
        stages = periods_passed(samples, length_samples(self.every_epochs, self.every_samples, train_samples))
        return float(self.decay**stages)
