"""The learning rate along half a cosine, once or with restarts."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ...citation import Citation
from ...ranges import require_number, require_whole
from .whole_run import Decay


@dataclass(frozen=True, slots=True)
class Cosine(Decay):
    """Decay along half a cosine, η(s) = η0 · (f + (1 - f) · (1 + cos(π p))/2), p the completed fraction of the run.

    | symbol | argument | meaning |
    |---|---|---|
    | η0, f | lr, final | first rate, and the last as a fraction of it |
    | S | total_epochs, total_samples | length of the run |
    | | cycles, growth | the run is cut into cycles, each `growth` times as long as the one before |

    Args:
        lr: η0; None takes the optimizer's own at the start.
        final: f.
        total_epochs: S in passes over the data; total_samples takes precedence.
        total_samples: S in samples; default: the length of the run.
        cycles: number of cycles; 1 is without restarts.
        growth: length of a cycle relative to the one before.

    Raises:
        InputError: a setting out of its range, or a run of unknown length.

    Reference: Loshchilov and Hutter 2017, equation (5). Differs: the paper gives the length of the first cycle, this
        rule
    that of the run.
    """

    cycles: int = 1
    growth: float = 1.0

    name: ClassVar[str] = "cosine"
    reference: ClassVar[Citation | None] = Citation(
        ("I. Loshchilov", "F. Hutter"),
        "SGDR: Stochastic Gradient Descent with Warm Restarts",
        2017,
        "ICLR; arXiv 1608.03983",
        "equation (5)",
    )

    def __post_init__(self) -> None:
        """Check the settings."""
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
