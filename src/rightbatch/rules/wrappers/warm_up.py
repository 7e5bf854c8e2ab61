"""A gradual start around any lr rule."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...citation import Citation
from ...decision import Plan, StepContext
from ...ranges import require_number
from ..papers import ONE_HOUR
from ..stages import length_samples, require_length
from .lr_wrapper import Altered, LRWrapper


@dataclass(frozen=True, slots=True)
class WarmUp(LRWrapper):
    """Scale the rate of the rule within by a + (1 - a)·s/w while s < w.

    | symbol | argument | meaning |
    |---|---|---|
    | s | | samples consumed, the current batch included |
    | w | over_epochs, over_samples | length of the warm-up |
    | a | start_share | fraction of the rate at the start |

    The rule within counts from the start of the run, not from the end of the warm-up.

    Args:
        rule: the rule within, or its text or number; by default the optimizer's own rate.
        over_epochs: w in passes over the data.
        over_samples: w in samples; takes precedence over over_epochs.
        start_share: a.

    Raises:
        InputError: a setting out of its range, or a rule within that computes the rate for each batch itself.

    Reference: Goyal et al. 2017, section 2.2, the gradual warm-up over 5 epochs from the rate of the small batch:
    start_share = small batch / batch.
    """

    over_epochs: float = 1.0
    over_samples: int | None = None
    start_share: float = 0.0

    name: ClassVar[str] = "warm-up"
    reference: ClassVar[Citation | None] = ONE_HOUR.at("section 2.2")

    def __post_init__(self) -> None:
        """Build the rule within and check the settings."""
        LRWrapper.__post_init__(self)
        self.require_rate_within()
        require_length("WarmUp.over", self.over_epochs, self.over_samples)
        require_number("WarmUp.start_share", self.start_share, least=0, most=1)

    def _begin(self, rate: float, plan: Plan) -> Altered:
        return self._altered(rate, 1, plan.train_samples)

    def _alter(self, rate: float, now: StepContext, own: Any) -> Altered:
        return self._altered(rate, now.samples + now.batch_size, now.train_samples)

    def _altered(self, rate: float, samples: int, train_samples: int) -> Altered:
        part = samples / length_samples(self.over_epochs, self.over_samples, train_samples)
        if part >= 1:
            return Altered(rate)
        share = self.start_share + (1 - self.start_share) * part
        return Altered(rate * share, f"{100 * part:.0f} % of the warm-up: {share:.2g} of the rate")
