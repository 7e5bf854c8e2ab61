"""A batch-size rule that starts gradually."""

from dataclasses import dataclass
from typing import ClassVar

from ...citation import Citation
from ...ranges import require_number, require_whole
from .batch_size_wrapper import BatchSizeWrapper, WrapContext


@dataclass(frozen=True, slots=True)
class Ramp(BatchSizeWrapper):
    """Start at `initial` samples and approach the wanted size linearly in the samples seen: a warm-up.

        b(s) = initial + (b_wanted - initial) · min(1, s/S)

    | symbol | argument | meaning |
    |---|---|---|
    | s | samples | samples consumed before the batch |
    | S | over_samples, over_epochs | length of the ramp in samples, or in passes over the data |
    | b_wanted | | what the rule within wants at that time |

    The size changes at nearly every step of the ramp; wrap it in "rounded" or "hysteresis" where that costs time.

    Args:
        rule: the rule within.
        initial: size of the first batch.
        over_epochs: S in passes over the data.
        over_samples: S in samples; takes precedence over over_epochs.

    Raises:
        InputError: a setting out of its range.
    """

    initial: int = 16
    over_epochs: float = 1.0
    over_samples: int | None = None

    name: ClassVar[str] = "ramp"
    reference: ClassVar[Citation | None] = None

    def __post_init__(self) -> None:
        """Check the settings."""
        require_whole("Ramp.initial", self.initial, least=1)
        require_number("Ramp.over_epochs", self.over_epochs, above=0)
        if self.over_samples is not None:
            require_whole("Ramp.over_samples", self.over_samples, least=1)
        BatchSizeWrapper.__post_init__(self)

    def _alter(self, wanted: int, place: WrapContext) -> tuple[int, str]:
        length = self.over_epochs * place.train_samples if self.over_samples is None else float(self.over_samples)
        if place.samples >= length:
            return wanted, ""
        share = place.samples / length
        return round(self.initial + (wanted - self.initial) * share), f"{share:.0%} of the ramp from {self.initial}"
