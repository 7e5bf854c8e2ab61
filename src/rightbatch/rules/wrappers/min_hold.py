"""A batch-size rule whose sizes stay for a while."""

from dataclasses import dataclass
from typing import ClassVar

from ...ranges import require_whole
from .batch_size_wrapper import BatchSizeWrapper, WrapContext


@dataclass(frozen=True, slots=True)
class MinHold(BatchSizeWrapper):
    """Keep every batch size for at least `steps` steps and `samples` samples; then move to what is wanted by then.

    While a rule enlarges the current batch, the size grows within one step as often as it wants: it dwells once the
    step is taken.

    Args:
        rule: the rule within.
        steps: steps that a new size stays.
        samples: samples that a new size stays, in addition.

    Raises:
        InputError: a setting that is no whole number of at least 0.

    Reference: the dwell time of S. Sievert, S. Shah, "Improving the convergence of SGD through adaptive batch sizes"
    (arXiv 1910.08222, 2021), whose default of 20 steps this is.
    """

    steps: int = 20
    samples: int = 0

    name: ClassVar[str] = "min-hold"

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        require_whole("MinHold.steps", self.steps, least=0)
        require_whole("MinHold.samples", self.samples, least=0)
        BatchSizeWrapper.__post_init__(self)

    def _alter(self, wanted: int, place: WrapContext) -> tuple[int, str]:
        held = place.held
        if held is None or place.step == held.decided_step:
            return wanted, ""
        if place.step < held.decided_step + self.steps or place.samples < held.decided_samples + self.samples:
            return held.batch_size, "the batch size has just changed"
        return wanted, ""
