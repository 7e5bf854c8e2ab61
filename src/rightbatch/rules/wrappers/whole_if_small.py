"""All the data in every batch where they are few."""

from dataclasses import dataclass
from typing import ClassVar

from ...ranges import require_whole
from .batch_size_wrapper import BatchSizeWrapper, WrapContext


@dataclass(frozen=True, slots=True)
class WholeIfSmall(BatchSizeWrapper):
    """Take all the data as the batch where there are at most `threshold` samples; else leave any rule as it is.

    A batch of all the data has a gradient free of noise, and a few hundred samples seldom take longer than a few
    dozen. The rule within is asked all the same: it may stop the run.

    Args:
        rule: the rule within.
        threshold: the largest training set that counts as small.

    Raises:
        InputError: a threshold that is no whole number of at least 1.
    """

    threshold: int = 512

    name: ClassVar[str] = "whole-if-small"

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        require_whole("WholeIfSmall.threshold", self.threshold, least=1)
        BatchSizeWrapper.__post_init__(self)

    def _alter(self, wanted: int, place: WrapContext) -> tuple[int, str]:
        if place.train_samples > self.threshold:
            return wanted, ""
        return place.train_samples, f"all of the data are at most {self.threshold} samples"
