"""DoWG: distance over weighted gradients."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ...citation import Citation
from .dog import DoG


@dataclass(frozen=True, slots=True)
class DoWG(DoG):
    """Take the squared distance over gradients weighted by it, η_t = r̄_t²/sqrt(Σ_{i<=t} r̄_i²·‖g_i‖²).

    | symbol | argument | meaning |
    |---|---|---|
    | r̄_t | distance | the largest of ‖x_i - x_0‖, i <= t, and r_ε |
    | r_ε | relative_start | r_ε = relative_start · (1 + ‖x_0‖), the first movement |
    | g_i | gradient_norm2 | the gradient of batch i |

    Early gradients have little weight, so that the steps grow longer than those of `dog`. The guarantee is for convex
    losses and an average of the iterates; this rule trains the last. The first steps can throw a network so far that it
    does not recover: watch the loss, and use `dog` if it does not fall.

    Args:
        relative_start: the first movement.
        scale: multiplies the step; 1 in the paper.

    Raises:
        InputError: a setting out of its range.
        UnsupportedError: when a run starts, an optimizer that does not step along the gradient.

    Reference: Khaled, Mishchenko and Jin 2023, Algorithm 1. Differs: r_ε is relative to the parameters, as in DoG.
    """

    relative_start: float = 1e-4

    name: ClassVar[str] = "dowg"
    reference: ClassVar[Citation | None] = Citation(
        ("A. Khaled", "K. Mishchenko", "C. Jin"),
        "DoWG Unleashed: An Efficient Universal Parameter-Free Gradient Descent Method",
        2023,
        "NeurIPS; arXiv 2305.16284",
        "Algorithm 1",
    )

    def _weight(self, farthest: float) -> float:
        return farthest * farthest

    def _step(self, farthest: float, squares: float) -> float:
        return farthest * farthest / math.sqrt(squares)
