"""DDP-Norm: the norm test from micro-batch gradients, in sizes that divide among the workers."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ...citation import Citation
from ...ranges import require_whole
from .norm_test import NormTest


@dataclass(frozen=True, slots=True)
class DDPNorm(NormTest):
    """Where V̂/b > η²·‖g_B‖², grow to ⌈V̂/(η²·‖g_B‖²)⌉ rounded up to a multiple, V̂ from micro-batch gradients.

    | symbol | argument | meaning |
    |---|---|---|
    | V̂ | measurement.variance | (b/J)·Σ_j ‖g_j - g_B‖²/(J - 1) over J micro-batches |
    | ‖g_B‖² | measurement.gradient_norm2 | squared norm of the batch's mean gradient |
    | η | theta | error allowed in the gradient, relative to its norm |
    | | multiple_of | samples of a micro-batch times the micro-batches taken at a time |

    Every measurement estimates the same V̂ without bias, so any `noise` will do; the paper's is
    noise="micro-batch(groups=J)". The test uses the raw gradient although Adam moves along another one: with
    noise="auto(preconditioned=True)" it uses the one that Adam moves along.

    Args:
        theta: η.
        initial: size of the first batch.
        max_size: largest batch size; None is all the data.
        multiple_of: new sizes are multiples of this, except `max_size` and all the data.

    Raises:
        InputError: a setting out of its range.

    Reference: Lau et al. 2025. FSDP-Norm is the same size from sharded gradients. Differs: the defaults of η and the
    first size are ours.
    """

    theta: float = 0.5
    multiple_of: int = 1

    name: ClassVar[str] = "ddp-norm"
    reference: ClassVar[Citation | None] = Citation(
        ("T. T.-K. Lau", "W. Li", "C. Xu", "H. Liu", "M. Kolar"),
        "Adaptive Batch Size Schedules for Distributed Training of Language Models with Data and Model Parallelism",
        2025,
        "CPAL; arXiv 2412.21124",
    )
    finite_population: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the settings."""
        NormTest.__post_init__(self)
        require_whole("DDPNorm.multiple_of", self.multiple_of, least=1)

    def _rounded(self, needed: float) -> int:
        return math.ceil(needed / self.multiple_of) * int(self.multiple_of)
