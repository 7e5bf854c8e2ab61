"""A batch-size rule whose sizes lie on a grid."""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from sys import maxsize
from typing import ClassVar, Literal, get_args

from ...citation import Citation
from ...errors import InputError
from ...ranges import require_choice, require_whole
from .batch_size_wrapper import BatchSizeWrapper, WrapContext

Direction = Literal["nearest", "up", "down"]
POWERS_OF_TWO = "powers-of-two"


@dataclass(frozen=True, slots=True)
class Rounded(BatchSizeWrapper):
    """Round the sizes of any rule to a grid: powers of two, multiples of a number, or a list of sizes.

    The nearest size is the nearest by ratio: 45 becomes 32 and 46 becomes 64. The data and the limits of the rule
    within limit the grid: the largest size is the largest of the grid within the limits, and the limit itself only if
    no size of the grid is within them. Wrappers around this one may leave the grid; put it outermost if the grid
    matters. The sizes of a rule that enlarges the current batch are always rounded up, or an enlargement might be lost.

    Args:
        rule: the rule within.
        grid: "powers-of-two", a number, for its multiples, or the sizes themselves.
        direction: "nearest", "up" or "down".

    Raises:
        InputError: an unreadable grid or direction.
    """

    grid: str | int | tuple[int, ...] = POWERS_OF_TWO
    direction: Direction = "nearest"

    name: ClassVar[str] = "rounded"
    reference: ClassVar[Citation | None] = None

    def __post_init__(self) -> None:
        """Check the settings."""
        if isinstance(self.grid, list | tuple):
            if not self.grid:
                raise InputError("Rounded.grid is empty: give sizes, a number or 'powers-of-two'.")
            for size in self.grid:
                require_whole("A size of Rounded.grid", size, least=1)
            object.__setattr__(self, "grid", tuple(sorted({int(size) for size in self.grid})))
        elif isinstance(self.grid, str):
            require_choice("Rounded.grid", self.grid, (POWERS_OF_TWO,))
        else:
            require_whole("Rounded.grid", self.grid, least=1)
        require_choice("Rounded.direction", self.direction, get_args(Direction))
        BatchSizeWrapper.__post_init__(self)

    def _alter(self, wanted: int, place: WrapContext) -> tuple[int, str]:
        least, most = self._range(place.train_samples)
        wanted = min(max(wanted, least), most)
        below, above = self._below(wanted), self._above(wanted)
        if below < least and above > most:
            return wanted, f"no size of the grid {self.grid!r} is within the limits"
        if below < least:
            batch_size = above
        elif above > most:
            batch_size = below
        elif self.direction == "up" or self.enlarges_current:
            batch_size = above
        elif self.direction == "down":
            batch_size = below
        else:
            batch_size = above if wanted * wanted > below * above else below
        return batch_size, f"rounded to the grid {self.grid!r}"

    def _below(self, wanted: int) -> int:
        """The largest size of the grid up to `wanted`; 0 if there is none."""
        if isinstance(self.grid, tuple):
            place = bisect_right(self.grid, wanted)
            return self.grid[place - 1] if place else 0
        if isinstance(self.grid, str):
            return 1 << (wanted.bit_length() - 1)
        return wanted // self.grid * self.grid

    def _above(self, wanted: int) -> int:
        """The smallest size of the grid from `wanted`; beyond all data if there is none."""
        if isinstance(self.grid, tuple):
            place = bisect_left(self.grid, wanted)
            return self.grid[place] if place < len(self.grid) else maxsize
        if isinstance(self.grid, str):
            return 1 << (wanted - 1).bit_length()
        return -(-wanted // self.grid) * self.grid
