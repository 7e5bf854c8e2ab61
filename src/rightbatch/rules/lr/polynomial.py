"""The learning rate decays with a power of the remaining part of the run, by default linearly."""

from dataclasses import dataclass
from typing import ClassVar

from ...citation import Citation
from ...ranges import require_number
from .whole_run import Decay


@dataclass(frozen=True, slots=True)
class Polynomial(Decay):
    """Decay with a power of the remaining part of the run, η(s) = η0 · (f + (1 - f) · (1 - s/S)^q).

    | symbol | argument | meaning |
    |---|---|---|
    | η0, f | lr, final | first rate, and the last as a fraction of it |
    | q | power | 1 is linear decay |
    | s, S | total_epochs, total_samples | samples consumed before the batch, and by the whole run |

    Args:
        lr: η0; None takes the optimizer's own at the start.
        final: f.
        total_epochs: S in passes over the data; total_samples takes precedence.
        total_samples: S in samples; default: the length of the run.
        power: q.

    Raises:
        InputError: a setting out of its range, or a run of unknown length.
    """

    power: float = 1.0

    name: ClassVar[str] = "polynomial"
    reference: ClassVar[Citation | None] = None

    def __post_init__(self) -> None:
        """Check the settings."""
        Decay.__post_init__(self)
        require_number("Polynomial.power", self.power, above=0)

    def _shape(self, part: float) -> float:
        return float((1 - part) ** self.power)
