"""AdaBatch: the batch size doubles every so many epochs, and the learning rate decays less in return."""

from dataclasses import dataclass
from typing import ClassVar

from ...citation import Citation
from ...ranges import require_number
from ..stages import RunPosition
from .staged import StagedRecipe


@dataclass(frozen=True, slots=True)
class AdaBatch(StagedRecipe):
    """Multiply the batch size by a factor every so many epochs, b = b0 · β^k, and the rate, η = η0 · δ^k, k = ⌊s/T⌋.

    | symbol | argument | meaning |
    |---|---|---|
    | b0 | initial | first batch size |
    | β | factor | growth per stage |
    | η0 | lr | base learning rate |
    | δ | decay | decay of the learning rate per stage |
    | T | every_epochs, every_samples | length of a stage |
    | s | samples | samples consumed before the batch |

    A schedule that decays the rate by δ' per stage at a fixed batch size decays it by δ = δ'·β here, which leaves the
    rate per sample, η/b, unchanged: 0.25 becomes 0.5 with β = 2. This no longer holds once the batch size reaches
    `max_size`, or all the data.

    Args:
        initial: b0.
        factor: β, above 1.
        lr: η0; None takes the optimizer's own at the start.
        every_epochs: T in passes over the data.
        every_samples: T in samples; takes precedence over every_epochs.
        max_size: largest batch size; None is all the data.
        decay: δ, above 0.

    Raises:
        InputError: a setting out of its range.

    Reference: Devarakonda et al. 2017, section 4, with the settings of its CIFAR experiments. Differs: no warm-up of
    the learning rate.
    """

    decay: float = 0.5

    name: ClassVar[str] = "ada-batch"
    reference: ClassVar[Citation | None] = Citation(
        ("A. Devarakonda", "M. Naumov", "M. Garland"),
        "AdaBatch: Adaptive Batch Sizes for Training Deep Neural Networks",
        2017,
        "arXiv 1712.02029",
        "section 4",
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        StagedRecipe.__post_init__(self)
        require_number("AdaBatch.decay", self.decay, above=0)

    def lr_share(self, at: RunPosition) -> float:
        """δ^k."""
        return float(self.decay ** self._stages(at))
