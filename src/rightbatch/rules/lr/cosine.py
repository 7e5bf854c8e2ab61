"""The learning rate along half a cosine, once or with restarts."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ...ranges import require_number, require_whole
from .whole_run import Decay


@dataclass(frozen=True, slots=True)
class Cosine(Decay):
    """η(s) = η0 · (f + (1 - f) · (1 + cos(π p))/2), p the part of the run, or of the cycle, that is over.

    | symbol | argument | meaning |
    |---|---|---|
    | η0, f | lr, final | first rate, and the last as a share of it |
    | S | total_epochs, total_samples | length of the run |
    | | cycles, growth | the run is cut into cycles, each `growth` times as long as the one before |

    Args:
        lr: η0; None takes the optimizer's own at the start.
        final: f.
        total_epochs: S in passes over the data; None leaves that to total_samples.
        total_samples: S in samples; None takes the run's own length.
        cycles: 1 is without restarts.
        growth: of the cycles; 1 makes them equal, 2 doubles each.

    Raises:
        InputError: a setting out of its range, or a run of unknown length.

    Reference: I. Loshchilov, F. Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts" (ICLR 2017; arXiv
    1608.03983), equation 5. There the first cycle's length is given and the run's follows; here the run's is.
    """

    cycles: int = 1
    growth: float = 1.0

    name: ClassVar[str] = "cosine"

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        Decay.__post_init__(self)
        require_whole("Cosine.cycles", self.cycles, least=1)
        require_number("Cosine.growth", self.growth, above=0)

    def _shape(self, part: float) -> float:
        lengths = [self.growth**k for k in range(self.cycles)]
        left = part * sum(lengths)
        for length in lengths[:-1]:
            if left < length:
                return (1 + math.cos(math.pi * left / length)) / 2
            left -= length
        return (1 + math.cos(math.pi * min(left / lengths[-1], 1.0))) / 2
