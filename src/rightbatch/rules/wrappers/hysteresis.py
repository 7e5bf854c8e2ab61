"""A batch-size rule that ignores small changes."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ...citation import Citation
from ...ranges import require_number
from .batch_size_wrapper import BatchSizeWrapper, WrapContext


@dataclass(frozen=True, slots=True)
class Hysteresis(BatchSizeWrapper):
    """Change the batch size only if the wanted one differs by a factor: b_wanted >= f·b or b_wanted <= b/f.

    | symbol | argument | meaning |
    |---|---|---|
    | b | | the present batch size |
    | f | factor | the smallest change |

    A rule that enlarges the current batch does so because the batch failed its test, and would fail it at the next step
    too: its enlargements are raised to the factor instead of postponed.

    Args:
        rule: the rule within.
        factor: f, above 1.

    Raises:
        InputError: a factor not above 1.
    """

    factor: float = 1.25

    name: ClassVar[str] = "hysteresis"
    reference: ClassVar[Citation | None] = None

    def __post_init__(self) -> None:
        """Check the settings."""
        require_number("Hysteresis.factor", self.factor, above=1)
        BatchSizeWrapper.__post_init__(self)

    def _alter(self, wanted: int, place: WrapContext) -> tuple[int, str]:
        held = wanted if place.held is None else place.held.batch_size
        if held == wanted or wanted >= held * self.factor or wanted * self.factor <= held:
            return wanted, ""
        if self.enlarges_current and wanted > held:
            return math.ceil(held * self.factor), f"a batch grows by a factor of {self.factor:g} or more"
        return held, f"they differ by less than a factor of {self.factor:g}"
