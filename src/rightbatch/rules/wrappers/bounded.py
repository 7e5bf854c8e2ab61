"""A batch-size rule within bounds."""

from dataclasses import dataclass
from typing import ClassVar

from ...citation import Citation
from ...ranges import require_whole
from .batch_size_wrapper import BatchSizeWrapper, WrapContext


@dataclass(frozen=True, slots=True)
class Bounded(BatchSizeWrapper):
    """Hold any rule within bounds: b = min(max(b_wanted, min_size), max_size).

    The bounds hold in any order of wrapping, also for wrappers around this one; if the data have fewer than `min_size`
    samples, all of them are the batch. They apply to the size decided: at the end of an epoch a batch may be half of
    that, and if more than half of the data are wanted, the batch includes the remainder.

    Args:
        rule: the rule within.
        min_size: smallest batch size.
        max_size: largest batch size; None is all the data.

    Raises:
        InputError: a bound that is no whole number of at least 1, or min_size above max_size.
    """

    min_size: int = 1
    max_size: int | None = None

    name: ClassVar[str] = "bounded"
    reference: ClassVar[Citation | None] = None

    def __post_init__(self) -> None:
        """Check the settings."""
        require_whole("Bounded.min_size", self.min_size, least=1)
        if self.max_size is not None:
            require_whole("Bounded.max_size", self.max_size, least=1)
        BatchSizeWrapper.__post_init__(self)

    def _own_limits(self) -> tuple[int, int | None]:
        return int(self.min_size), None if self.max_size is None else int(self.max_size)

    def _alter(self, wanted: int, place: WrapContext) -> tuple[int, str]:
        if wanted < self.min_size:
            return wanted, f"at least {self.min_size} are allowed"
        return wanted, "no more are allowed"
