"""Don't decay the learning rate, increase the batch size."""

from dataclasses import dataclass
from typing import ClassVar

from ...citation import Citation
from ...ranges import require_number
from ..stages import RunPosition, grown, milestones_passed, require_milestones, undergrown
from .recipe import ScheduleRecipe


@dataclass(frozen=True, slots=True)
class DontDecay(ScheduleRecipe):
    """Multiply the batch size where a schedule would divide the rate, up to a share of the data; then decay the rate.

        b_k = min(b0 · f^k, N·max_fraction),    ε_k = ε_0 · min(1, N·max_fraction/(b0 · f^k)),    after k milestones

    | symbol | argument | meaning |
    |---|---|---|
    | b0 | initial | first batch size |
    | f | factor | what the schedule would divide the rate by |
    | ε_0 | lr | base learning rate |
    | N | train_samples | samples in the training set |

    The noise of SGD is proportional to ε·N/b, ε the learning rate (divided by 1 - momentum). Each milestone lowers it
    by f: by way of b while b may grow, by way of ε from there on.

    Args:
        initial: b0.
        factor: f, above 1.
        lr: ε_0; None takes the optimizer's own at the start.
        milestones: epochs at which the schedule would divide the rate, in increasing order.
        max_fraction: largest batch size as a share of the training set; a larger `initial` is not reduced.

    Raises:
        InputError: a setting out of its range.

    Reference: Smith et al. 2018, with the factor and milestones of its wide residual network on CIFAR-10. Differs: the
    milestone at which the cap is reached is split exactly between batch size and rate.
    """

    factor: float = 5.0
    milestones: tuple[float, ...] = (60.0, 120.0, 160.0)
    max_fraction: float = 0.1

    name: ClassVar[str] = "dont-decay"
    reference: ClassVar[Citation | None] = Citation(
        ("S. L. Smith", "P.-J. Kindermans", "C. Ying", "Q. V. Le"),
        "Don't Decay the Learning Rate, Increase the Batch Size",
        2018,
        "ICLR; arXiv 1711.00489",
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        ScheduleRecipe.__post_init__(self)
        require_number("DontDecay.max_fraction", self.max_fraction, above=0, most=1)
        object.__setattr__(self, "milestones", require_milestones("DontDecay.milestones", self.milestones))

    def _size(self, at: RunPosition) -> int:
        return grown(self.initial, self.factor, milestones_passed(at.epoch, self.milestones), self._cap(at))

    def lr_share(self, at: RunPosition) -> float:
        """What the cap takes off the growth of the batch size."""
        return undergrown(self.initial, self.factor, milestones_passed(at.epoch, self.milestones), self._cap(at))

    def _cap(self, at: RunPosition) -> int:
        return max(self.initial, int(self.max_fraction * at.train_samples))
