"""A batch-size rule held within bounds."""

from dataclasses import dataclass
from typing import ClassVar

from ...ranges import require_whole
from .batch_size_wrapper import Place, Wrapper


@dataclass(frozen=True, slots=True)
class Bounded(Wrapper):
    """Hold any rule within bounds: b = min(max(b_wanted, least), most).

    The bounds hold in any order of wrapping, also for wrappers around this one; where the data have fewer than `least`
    examples, all of them are the batch. They are on the size decided: where an epoch ends a batch may be half of that,
    and where more than half of the data are wanted, what is left over is taken along.

    Args:
        rule: the rule within.
        least: smallest batch.
        most: largest batch; None leaves that to the data.

    Raises:
        InputError: a bound that is no whole number of at least 1, or least above most.
    """

    least: int = 1
    most: int | None = None

    name: ClassVar[str] = "bounded"

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        require_whole("Bounded.least", self.least, least=1)
        if self.most is not None:
            require_whole("Bounded.most", self.most, least=1)
        Wrapper.__post_init__(self)

    def _own_limits(self) -> tuple[int, int | None]:
        return int(self.least), None if self.most is None else int(self.most)

    def _alter(self, wanted: int, place: Place) -> tuple[int, str]:
        if wanted < self.least:
            return wanted, f"at least {self.least} are allowed"
        return wanted, "no more are allowed"
