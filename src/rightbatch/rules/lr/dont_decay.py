"""The learning rate that goes with a batch increased in its place."""

from dataclasses import dataclass
from typing import ClassVar

from ...ranges import require_number, require_whole
from ..stages import milestones_passed, require_milestones, undergrown
from .schedule import Schedule


@dataclass(frozen=True, slots=True)
class DontDecay(Schedule):
    """Keep the rate while the batch of the rule "dont-decay" grows in its place; decay it from the largest batch on.

        ε_k = ε_0 · min(1, N·max_fraction/(b0 · f^k)),    k milestones having passed

    so that with that batch rule, given the same settings, ε·N/b falls by f at every milestone.

    | symbol | argument | meaning |
    |---|---|---|
    | ε_0 | lr | first rate |
    | b0 | initial | first batch |
    | f | factor | fall of the noise at a milestone |
    | N | train_samples | samples in the training set |

    Args:
        lr: ε_0; None takes the optimizer's own at the start.
        initial: as in the batch rule, like all that follow.
        factor: f, above 1.
        milestones: in epochs, ascending.
        max_fraction: largest batch as a share of the training set.

    Raises:
        InputError: a setting out of its range.

    Reference: S. L. Smith, P.-J. Kindermans, C. Ying, Q. V. Le, "Don't Decay the Learning Rate, Increase the Batch
    Size" (ICLR 2018, arXiv 1711.00489). The milestone at which the largest batch is reached is split exactly.
    """

    initial: int = 128
    factor: float = 5.0
    milestones: tuple[float, ...] = (60.0, 120.0, 160.0)
    max_fraction: float = 0.1

    name: ClassVar[str] = "dont-decay"

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        Schedule.__post_init__(self)
        require_whole("DontDecay.initial", self.initial, least=1)
        require_number("DontDecay.factor", self.factor, above=1)
        require_number("DontDecay.max_fraction", self.max_fraction, above=0, most=1)
        object.__setattr__(self, "milestones", require_milestones("DontDecay.milestones", self.milestones))

    def _share(self, samples: int, train_samples: int, total_samples: int | None) -> float:
        stages = milestones_passed(samples / train_samples, self.milestones)
        return undergrown(self.initial, self.factor, stages, max(self.initial, int(self.max_fraction * train_samples)))
