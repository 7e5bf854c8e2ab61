"""A list of batch sizes, each from a number of samples or epochs on."""

import re
from bisect import bisect_right
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from ...citation import Citation
from ...errors import InputError
from ...ranges import require_choice, require_number, require_whole
from ..stages import RunPosition
from .schedule import BatchSizeSchedule

Unit = Literal["samples", "epochs"]
Pairs = tuple[tuple[float, int], ...]
PAIR = re.compile(r"(\d+(?:\.\d+)?)([KMBT]?):(\d+)", re.IGNORECASE)
SUFFIXES = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


@dataclass(frozen=True, slots=True)
class Piecewise(BatchSizeSchedule):
    """Take the batch sizes of a list, each from its threshold on.

    Args:
        sizes: (threshold, batch size) pairs, the thresholds increasing from 0; or as text, "0:768 250M:1536", where K,
            M, B and T stand for a thousand, a million and so on.
        unit: of the thresholds: "samples", the samples consumed before the batch, or "epochs".

    Raises:
        InputError: unreadable pairs, thresholds that do not increase from 0, or no batch size.

    The text is that of Megatron-LM's step-batch-size-schedule.
    """

    sizes: Pairs | str = ((0, 32),)
    unit: Unit = "samples"

    name: ClassVar[str] = "piecewise"
    reference: ClassVar[Citation | None] = None

    def __post_init__(self) -> None:
        """Check the settings."""
        who = f"{type(self).__name__}.sizes"
        pairs = _read(who, self.sizes) if isinstance(self.sizes, str) else self.sizes
        try:
            pairs = tuple((threshold, batch_size) for threshold, batch_size in pairs)
        except (TypeError, ValueError):
            raise InputError(f"{who} is {self.sizes!r}: give (threshold, batch size) pairs.") from None
        for threshold, batch_size in pairs:
            require_number(f"A threshold of {who}", threshold, least=0)
            require_whole(f"A batch size of {who}", batch_size, least=1)
        thresholds = [threshold for threshold, _ in pairs]
        if not pairs or thresholds[0] != 0 or thresholds != sorted(set(thresholds)):
            raise InputError(f"{who} has the thresholds {thresholds}: they must increase from 0.")
        require_choice(f"{type(self).__name__}.unit", self.unit, get_args(Unit))
        object.__setattr__(self, "sizes", pairs)

    def _size(self, position: RunPosition) -> int:
        place = position.samples if self.unit == "samples" else position.epoch
        assert not isinstance(self.sizes, str)
        return self.sizes[bisect_right(self.sizes, place, key=lambda pair: pair[0]) - 1][1]


def _read(who: str, text: str) -> Pairs:
    pairs = []
    for word in text.split():
        form = PAIR.fullmatch(word)
        if form is None:
            raise InputError(f"{who} has {word!r}: write threshold:size, such as 250M:1536.")
        threshold = float(form[1]) * SUFFIXES[form[2].upper()]
        pairs.append((int(threshold) if threshold.is_integer() else threshold, int(form[3])))
    return tuple(pairs)
