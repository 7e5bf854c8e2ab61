"""A batch-size rule whose sizes hold for a minimum time."""

from dataclasses import dataclass
from typing import ClassVar

from ...citation import Citation
from ...ranges import require_whole
from ..papers import DAMPING
from .batch_size_wrapper import BatchSizeWrapper, WrapContext


@dataclass(frozen=True, slots=True)
class MinHold(BatchSizeWrapper):
    """Hold every batch size for at least `steps` steps and `samples` samples, then change to the size wanted by then.

    A rule that enlarges the current batch may grow it repeatedly within one step: the size holds once the step is
    taken.

    Args:
        rule: the rule within.
        steps: steps for which a new size holds.
        samples: samples for which a new size holds, in addition.

    Raises:
        InputError: a setting that is no whole number of at least 0.

    Reference: the dwell time of Sievert and Shah 2021, with its default of 20 steps.
    """

    steps: int = 20
    samples: int = 0

    name: ClassVar[str] = "min-hold"
    reference: ClassVar[Citation | None] = DAMPING

    def __post_init__(self) -> None:
        """Check the settings."""
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
