"""The learning rate cut at milestones."""

from dataclasses import dataclass
from typing import ClassVar

from ...citation import Citation
from ...ranges import require_number
from ..stages import RunPosition, milestones_passed, require_milestones
from .schedule import LRSchedule


@dataclass(frozen=True, slots=True)
class StepDecay(LRSchedule):
    """Multiply the rate by a factor at each milestone, η = η0 · γ^k after k milestones.

    | symbol | argument | meaning |
    |---|---|---|
    | η0 | lr | first rate |
    | γ | factor | decay at each milestone |
    | | milestones | in passes over the data |

    Args:
        lr: η0; None takes the optimizer's own at the start.
        factor: γ.
        milestones: in epochs, in increasing order, fractions allowed.

    Raises:
        InputError: a setting out of its range.

    Reference: He et al. 2016, section 3.4, for the factor; the milestones are those in use for 90 epochs of ImageNet.
    """

    factor: float = 0.1
    milestones: tuple[float, ...] = (30.0, 60.0, 80.0)

    name: ClassVar[str] = "step-decay"
    reference: ClassVar[Citation | None] = Citation(
        ("K. He", "X. Zhang", "S. Ren", "J. Sun"),
        "Deep Residual Learning for Image Recognition",
        2016,
        "CVPR; arXiv 1512.03385",
        "section 3.4",
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        LRSchedule.__post_init__(self)
        require_number("StepDecay.factor", self.factor, above=0, most=1)
        object.__setattr__(self, "milestones", require_milestones("StepDecay.milestones", self.milestones))

    def _share(self, at: RunPosition) -> float:
        return float(self.factor ** milestones_passed(at.epoch, self.milestones))
