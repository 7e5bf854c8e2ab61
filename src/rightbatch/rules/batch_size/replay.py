"""The batch sizes of an earlier run, replayed."""

from dataclasses import dataclass
from typing import ClassVar

from ...citation import Citation
from .piecewise import Piecewise


@dataclass(frozen=True, slots=True)
class Replay(Piecewise):
    """Give every batch the size that an earlier run decided at the same number of samples.

    `rightbatch.record.replay_of(folder)` reads one from a run folder. Batches are the same as in that run if the
    data, their order and the epochs are; near the end of an epoch the batches of a rule that enlarged them step by
    step may be cut elsewhere.

    Args:
        sizes: (samples consumed before the batch, batch size) pairs, increasing from 0; for the text see `Piecewise`.
        unit: of the thresholds; "samples" for a recorded run.

    Raises:
        InputError: as `Piecewise`.
    """

    name: ClassVar[str] = "replay"
    reference: ClassVar[Citation | None] = None
