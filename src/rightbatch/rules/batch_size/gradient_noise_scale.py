"""A batch size that follows the gradient noise scale."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ...citation import Citation
from ...decision import StepContext
from ...ranges import require_number
from ..papers import NOISE_SCALE
from .noise_follower import NoiseFollower


@dataclass(frozen=True, slots=True)
class GradientNoiseScale(NoiseFollower):
    """Take b = B_noise, which costs twice the fewest steps and twice the fewest samples; or b = sqrt(r · B_noise).

    | symbol | argument | meaning |
    |---|---|---|
    | B_noise | noise.noise_scale | noise scale tr Σ/‖g‖² in samples |
    | r | exchange | how many samples a step saved is worth |

    A target takes S_min·(1 + B_noise/b) steps and E_min·(1 + b/B_noise) samples, with E_min = B_noise·S_min. If a
    step saved is worth r samples, the cost r·S + E is smallest at b = sqrt(r·B_noise); with r = B_noise that is
    B_noise. Where r is not known, "sweet-spot" measures it: it is n½, the samples that take as long as the fixed part
    of a step.

    While the signal is not resolved from zero, the noise scale is only known to be at least `noise.low`, which may
    enlarge the batch but never shrinks it. Every change of the estimate changes the size;
    "hysteresis('gradient-noise-scale')" changes it less often.

    Args:
        initial: size of the first batch.
        min_size: smallest batch size.
        max_size: largest batch size; None is all the data.
        exchange: r; None takes b = B_noise.

    Raises:
        InputError: a setting out of its range, or min_size above max_size.

    Reference: McCandlish, Kaplan and Amodei 2018, section 2 and, for the adaptive batch, appendix D. The estimate from
    Σ and g alone, without the Hessian, is their B_simple.
    """

    exchange: float | None = None

    name: ClassVar[str] = "gradient-noise-scale"
    reference: ClassVar[Citation | None] = NOISE_SCALE.at("section 2, appendix D")

    def __post_init__(self) -> None:
        """Check the settings."""
        NoiseFollower.__post_init__(self)
        if self.exchange is not None:
            require_number("GradientNoiseScale.exchange", self.exchange, above=0)

    def _size(self, scale: float, now: StepContext, batch_size: int) -> tuple[float, str]:
        if self.exchange is None:
            return scale, ""
        return math.sqrt(self.exchange * scale), f", a step worth {self.exchange:g} samples"
