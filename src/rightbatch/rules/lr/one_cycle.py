"""The one-cycle policy: the learning rate rises and falls far below its start, the momentum does the opposite."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ...citation import Citation
from ...ranges import require_number
from ..stages import RunPosition
from .whole_run import WholeRunSchedule


@dataclass(frozen=True, slots=True)
class OneCycle(WholeRunSchedule):
    """Go from η0/a up to η0 and down to f·η0, along half cosines, while the momentum falls and rises again.

    | symbol | argument | meaning |
    |---|---|---|
    | η0 | lr | the largest rate |
    | a | divide | the first rate is η0/a |
    | f | final | the last rate as a fraction of η0 |
    | | rise | fraction of the run in which the rate rises |
    | | momentum_high, momentum_low | momentum, or Adam's beta1, at the ends and at the largest rate |

    Args:
        lr: η0; None takes the optimizer's own at the start.
        final: f.
        total_epochs: length of the run in passes over the data; total_samples takes precedence.
        total_samples: the same in samples; default: the length of the run.
        divide: a.
        rise: from 0 to 1.
        momentum_high: momentum at the ends; None leaves the momentum unchanged.
        momentum_low: momentum at the largest rate.

    Raises:
        InputError: a setting out of its range, or a run of unknown length.

    Reference: Smith and Topin 2018. Differs: half cosines in place of straight lines, and the defaults, are those of
    torch's OneCycleLR, which counts steps where this rule counts samples.
    """

    final: float = 4e-6
    divide: float = 25.0
    rise: float = 0.3
    momentum_high: float | None = 0.95
    momentum_low: float = 0.85

    name: ClassVar[str] = "one-cycle"
    reference: ClassVar[Citation | None] = Citation(
        ("L. N. Smith", "N. Topin"),
        "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates",
        2018,
        "arXiv 1708.07120",
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        WholeRunSchedule.__post_init__(self)
        require_number("OneCycle.divide", self.divide, least=1)
        require_number("OneCycle.rise", self.rise, least=0, most=1)
        if self.momentum_high is not None:
            require_number("OneCycle.momentum_high", self.momentum_high, least=0, most=1)
        require_number("OneCycle.momentum_low", self.momentum_low, least=0, most=1)

    def _share(self, at: RunPosition) -> float:
        assert at.total_samples is not None
        height, rising = self._height(at.samples / at.total_samples)
        bottom = 1 / self.divide if rising else self.final
        return bottom + (1 - bottom) * height

    def _settings(self, samples: int, total_samples: int | None, known: Mapping[str, float]) -> Mapping[str, float]:
        name = next((name for name in ("momentum", "beta1") if name in known), None)
        if self.momentum_high is None or name is None or total_samples is None:
            return {}
        height, _ = self._height(samples / total_samples)
        return {name: self.momentum_high + (self.momentum_low - self.momentum_high) * height}

    def _height(self, part: float) -> tuple[float, bool]:
        """0 at both ends and 1 at the largest rate, and whether that is still ahead."""
        if part < self.rise:
            return (1 - math.cos(math.pi * part / self.rise)) / 2, True
        down = min((part - self.rise) / (1 - self.rise), 1.0) if self.rise < 1 else 1.0
        return (1 + math.cos(math.pi * down)) / 2, False
