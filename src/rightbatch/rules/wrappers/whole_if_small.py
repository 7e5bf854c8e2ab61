"""All the data in every batch if they are few."""

from dataclasses import dataclass
from typing import ClassVar

from ...citation import Citation
from ...ranges import require_whole
from .batch_size_wrapper import BatchSizeWrapper, WrapContext


@dataclass(frozen=True, slots=True)
class WholeIfSmall(BatchSizeWrapper):
    """Take all the data as the batch if there are at most `threshold` samples; otherwise change nothing.

    A batch of all the data has a gradient free of noise, and a few hundred samples seldom take longer than a few
    dozen. The rule within still decides whether to stop the run.

    Args:
        rule: the rule within.
        threshold: the largest training set that counts as small.

    Raises:
        InputError: a threshold that is no whole number of at least 1.
    """

    threshold: int = 512

    name: ClassVar[str] = "whole-if-small"
    reference: ClassVar[Citation | None] = None

    def __post_init__(self) -> None:
        """Check the settings."""
        require_whole("WholeIfSmall.threshold", self.threshold, least=1)
        BatchSizeWrapper.__post_init__(self)

    def _alter(self, wanted: int, place: WrapContext) -> tuple[int, str]:
        if place.train_samples > self.threshold:
            return wanted, ""
        return place.train_samples, f"the data have at most {self.threshold} samples"
