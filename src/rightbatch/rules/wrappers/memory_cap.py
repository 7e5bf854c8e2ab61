"""A batch-size rule limited to what fits into memory."""

from dataclasses import dataclass
from typing import ClassVar

from ...citation import Citation
from ...ranges import require_whole
from .batch_size_wrapper import BatchSizeWrapper, WrapContext


@dataclass(frozen=True, slots=True)
class MemoryCap(BatchSizeWrapper):
    """Limit any rule to the largest batch that fits into memory: b = min(b_wanted, max_size).

    For batches that must go through the model in one forward pass; anywhere else use `micro_batch`, which splits the
    passes and changes no result. If the rule within wants more than fits, the batch size stays at the cap and the
    reason gives the size wanted; a rule that enlarges the current batch then steps with a noisier gradient than it asks
    for, and does not stop the run as it may at a limit of its own. The cap holds in any order of wrapping, also for
    wrappers around this one. It applies to the size decided: if that is more than half of the data, the batch includes
    the remainder of the epoch; and a run that times the hardware tries larger batches at its start, which `micro_batch`
    limits.

    Args:
        rule: the rule within.
        max_size: largest batch that fits, such as `max_batch_size` of `rightbatch.probe`.

    Raises:
        InputError: `max_size` is no whole number of at least 1, or below what a rule within allows at least.
    """

    max_size: int = 1024

    name: ClassVar[str] = "memory-cap"
    reference: ClassVar[Citation | None] = None

    def __post_init__(self) -> None:
        """Check the settings."""
        require_whole("MemoryCap.max_size", self.max_size, least=1)
        BatchSizeWrapper.__post_init__(self)

    def _own_limits(self) -> tuple[int, int | None]:
        return 1, int(self.max_size)

    def _alter(self, wanted: int, place: WrapContext) -> tuple[int, str]:
        return wanted, "no more fit into memory"
