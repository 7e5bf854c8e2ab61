"""The batch sizes of an earlier run again."""

from dataclasses import dataclass
from typing import ClassVar

from .piecewise import Piecewise


@dataclass(frozen=True, slots=True)
class Replay(Piecewise):
    """Give every batch the size that an earlier run had decided at the same number of samples.

    `rightbatch.record.replay_of(folder)` reads one from a run folder. Batches are the same as in that run where the
    data, their order and the epochs are; near the end of an epoch the batches of a rule that enlarged them step by
    step may be cut elsewhere.

    Args:
        sizes: (samples consumed before the batch, batch size) pairs, ascending from 0; as text see `Piecewise`.
        unit: of the former; "samples" for a recorded run.

    Raises:
        InputError: as `Piecewise`.
    """

    name: ClassVar[str] = "replay"
