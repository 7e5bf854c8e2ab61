"""The batch that follows the gradient noise scale."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ...decision import StepContext
from ...ranges import require_number
from .noise_follower import NoiseFollower


@dataclass(frozen=True, slots=True)
class GradientNoiseScale(NoiseFollower):
    """b = B_noise, which costs twice the fewest steps and twice the fewest samples; or b = sqrt(r · B_noise).

    | symbol | argument | meaning |
    |---|---|---|
    | B_noise | noise.noise_scale | noise scale tr Σ/‖g‖² in samples |
    | r | exchange | how many samples a step saved is worth |

    A target takes S_min·(1 + B_noise/b) steps and E_min·(1 + b/B_noise) samples, with E_min = B_noise·S_min. Of steps
    priced at r samples each the cheapest are r·S + E, least at b = sqrt(r·B_noise); with r = B_noise that is B_noise.
    Where r is not known, "sweet-spot" measures it: it is n½, the samples that take as long as the fixed part of a
    step.

    While its signal is not told from zero the noise scale is only known to be at least `noise.low`, which may enlarge
    the batch but never shrinks it. Every change of the estimate moves the size; "hysteresis('gradient-noise-scale')"
    moves less often.

    Args:
        initial: size of the first batch.
        min_size: smallest batch.
        max_size: largest batch; None is all the data.
        exchange: r; None takes b = B_noise.

    Raises:
        InputError: a setting out of its range, or min_size above max_size.

    Reference: S. McCandlish, J. Kaplan, D. Amodei, "An Empirical Model of Large-Batch Training" (arXiv 1812.06162,
    2018), section 2 and, for the adaptive batch, appendix D. The estimate with Σ and g alone, without the Hessian, is
    their B_simple.
    """

    exchange: float | None = None

    name: ClassVar[str] = "gradient-noise-scale"

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        NoiseFollower.__post_init__(self)
        if self.exchange is not None:
            require_number("GradientNoiseScale.exchange", self.exchange, above=0)

    def _size(self, scale: float, now: StepContext, batch_size: int) -> tuple[float, str]:
        if self.exchange is None:
            return scale, ""
        return math.sqrt(self.exchange * scale), f", a step worth {self.exchange:g} samples"
