"""Don't decay the learning rate, increase the batch size."""

from dataclasses import dataclass
from typing import ClassVar

from ...ranges import require_number, require_whole
from ..stages import grown, milestones_passed, require_milestones
from .schedule import Course, Schedule


@dataclass(frozen=True, slots=True)
class DontDecay(Schedule):
    """Multiply the batch where a schedule would divide the rate, until it is a tenth of the data; then the rate falls.

        b_k = min(b0 · f^k, N·max_fraction),    k milestones having passed

    | symbol | argument | meaning |
    |---|---|---|
    | b0 | initial | first batch |
    | f | factor | what the schedule would divide the rate by |
    | N | train_samples | samples in the training set |

    The noise of SGD is governed by ε·N/b, ε the learning rate (divided by 1 - momentum): each milestone lowers it by f,
    through b while b may grow, through ε from there on. The latter is the step rule "dont-decay", which must be given
    the same settings; together they lower ε·N/b by f at every milestone.

    Args:
        initial: b0.
        factor: f, above 1.
        milestones: the epochs at which the schedule would divide the rate, ascending.
        max_fraction: largest batch as a share of the training set; a larger `initial` stays.

    Raises:
        InputError: a setting out of its range.

    Reference: S. L. Smith, P.-J. Kindermans, C. Ying, Q. V. Le, "Don't Decay the Learning Rate, Increase the Batch
    Size" (ICLR 2018, arXiv 1711.00489); factor and milestones are those of its wide residual network on CIFAR-10. The
    milestone at which the cap is reached is split here exactly: the batch grows up to it, the rate takes the rest.
    """

    initial: int = 128
    factor: float = 5.0
    milestones: tuple[float, ...] = (60.0, 120.0, 160.0)
    max_fraction: float = 0.1

    name: ClassVar[str] = "dont-decay"

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        require_whole("DontDecay.initial", self.initial, least=1)
        require_number("DontDecay.factor", self.factor, above=1)
        require_number("DontDecay.max_fraction", self.max_fraction, above=0, most=1)
        object.__setattr__(self, "milestones", require_milestones("DontDecay.milestones", self.milestones))

    def _size(self, course: Course) -> int:
        stages = milestones_passed(course.samples / course.train_samples, self.milestones)
        most = max(self.initial, int(self.max_fraction * course.train_samples))
        return grown(self.initial, self.factor, stages, most)
