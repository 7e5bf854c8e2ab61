"""DoWG: distance over weighted gradients."""

import math
from dataclasses import dataclass
from typing import ClassVar

from .dog import DoG


@dataclass(frozen=True, slots=True)
class DoWG(DoG):
    """Step by the squared distance over gradients weighted by it, η_t = r̄_t²/sqrt(Σ_{i<=t} r̄_i²·‖g_i‖²).

    | symbol | argument | meaning |
    |---|---|---|
    | r̄_t | distance | the most of ‖x_i - x_0‖, i <= t, and of r_ε |
    | r_ε | relative_start | r_ε = relative_start · (1 + ‖x_0‖), the first movement |
    | g_i | gradient_norm2 | the gradient of batch i |

    Early gradients count for little, so that it is bolder than `dog` later on. As there, the guarantee is for an
    average of the iterates, and this rule trains the last. The guarantee is for convex losses; a network can be thrown
    so far at first that it does not come back: watch the loss, and use `dog` where it stays that of a guess.

    Args:
        relative_start: the first movement.
        scale: multiplies the step; 1 is the paper's.

    Raises:
        InputError: a setting out of its range.
        UnsupportedError: when a run starts, an optimizer that does not step along the gradient.

    Reference: A. Khaled, K. Mishchenko, C. Jin, "DoWG Unleashed: An Efficient Universal Parameter-Free Gradient Descent
    Method" (NeurIPS 2023; arXiv 2305.16284), Algorithm 1. Differs: r_ε is relative to the parameters, as in DoG.
    """

    relative_start: float = 1e-4

    name: ClassVar[str] = "dowg"

    def _weight(self, farthest: float) -> float:
        return farthest * farthest

    def _step(self, farthest: float, squares: float) -> float:
        return farthest * farthest / math.sqrt(squares)
