"""A batch-size rule that does not twitch."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ...ranges import require_number
from .batch_size_wrapper import BatchSizeWrapper, WrapContext


@dataclass(frozen=True, slots=True)
class Hysteresis(BatchSizeWrapper):
    """Move the batch size only when the wanted one differs by a factor: b_wanted >= f·b or b_wanted <= b/f.

    | symbol | argument | meaning |
    |---|---|---|
    | b | | the size in force |
    | f | factor | the least change worth making |

    A rule that enlarges the current batch wants more because the batch has failed its test, and would fail it at the
    next step too: what it adds is raised to the factor instead of being put off.

    Args:
        rule: the rule within.
        factor: f, above 1.

    Raises:
        InputError: a factor not above 1.
    """

    factor: float = 1.25

    name: ClassVar[str] = "hysteresis"

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        require_number("Hysteresis.factor", self.factor, above=1)
        BatchSizeWrapper.__post_init__(self)

    def _alter(self, wanted: int, place: WrapContext) -> tuple[int, str]:
        held = wanted if place.held is None else place.held.batch_size
        if held == wanted or wanted >= held * self.factor or wanted * self.factor <= held:
            return wanted, ""
        if self.enlarges_current and wanted > held:
            return math.ceil(held * self.factor), f"a batch grows by a factor of {self.factor:g} or more"
        return held, f"they differ by less than a factor of {self.factor:g}"
