"""SimiGrad: the batch grows while the gradients of its two halves disagree, and shrinks while they agree."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ...citation import Citation
from ...decision import Decision, Needs, Plan, StepContext
from ...ranges import require_number
from ..bounds import require_sizes, within
from .noise_follower import FollowerState
from .sampling_test import UNMEASURED, measured

SETTLED = Decision(code="held", reason="hold: the halves are as similar as wanted, or the batch size is at its limit")


@dataclass(frozen=True, slots=True)
class SimiGrad:
    """Grow the next batch by a tenth while cos(g_1, g_2) < target, and shrink it by as much while it is above.

    | symbol | argument | meaning |
    |---|---|---|
    | g_1, g_2 | | mean gradients of the two halves of a batch |
    | b | batch_size | samples in the current batch |
    | V̂ | measurement.variance | unbiased trace of the covariance of one sample's gradient |
    | ŝ | measurement.signal | ‖g_B‖² - V̂/b |

    Over all ways to halve the batch the mean of ⟨g_1, g_2⟩ is ŝ and that of ‖g_1‖² is ŝ + 2V̂/b, exactly; their
    ratio, cos = ŝ/(ŝ + 2V̂/b), is the cosine without the randomness of one division. The size settles around
    b = 2·B_noise·target/(1 - target).

    Args:
        initial: size of the first batch.
        min_size: smallest batch size.
        max_size: largest batch size; None is all the data.
        target: the cosine wanted, in (-1, 1).
        growth: fraction by which the batch grows; to shrink it is divided by 1 + growth.

    Raises:
        InputError: a setting out of its range, or min_size above max_size.

    Reference: Qin et al. 2021, with the target and largest batch of its runs on CIFAR-10. Differs: the paper takes one
    division into halves and needs an even number of workers. Its schedule for the learning rate is up to the lr rule.
    """

    initial: int = 32
    min_size: int = 2
    max_size: int | None = 4096
    target: float = 0.2
    growth: float = 0.1

    name: ClassVar[str] = "simi-grad"
    reference: ClassVar[Citation | None] = Citation(
        ("H. Qin", "S. Rajbhandari", "O. Ruwase", "F. Yan", "L. Yang", "Y. He"),
        "SimiGrad: Fine-Grained Adaptive Batching for Large Scale Training using Gradient Similarity Measurement",
        2021,
        "NeurIPS",
    )
    needs: ClassVar[Needs] = Needs.EVERY_BATCH
    enlarges_current: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the settings."""
        require_sizes("SimiGrad", self.initial, self.max_size, self.min_size)
        require_number("SimiGrad.target", self.target, above=-1, most=1 - 1e-12)
        require_number("SimiGrad.growth", self.growth, above=0)

    def start(self, plan: Plan) -> tuple[Decision, FollowerState]:
        """Decide the first batch."""
        batch_size = within(self.initial, self.min_size, self.max_size, plan.train_samples)
        reason = f"start with {batch_size} samples and hold the similarity of their halves at {self.target:g}"
        return Decision(batch_size, code="initial", reason=reason), FollowerState(batch_size)

    def decide(self, now: StepContext, state: FollowerState) -> tuple[Decision, FollowerState]:
        """Grow or shrink by one step."""
        found = measured(now)
        if found is None:
            return UNMEASURED, state
        signal = found.gradient_norm2 - found.variance / found.samples
        square = signal + 2 * found.variance / found.samples
        if not (math.isfinite(square) and square > 0):
            return UNMEASURED, state
        cosine, b = signal / square, state.batch_size
        if cosine < self.target:
            size = max(b + 1, round(b * (1 + self.growth)))
        elif cosine > self.target:
            size = min(b - 1, round(b / (1 + self.growth)))
        else:
            size = b
        batch_size = within(size, self.min_size, self.max_size, now.train_samples)
        if batch_size == b:
            return SETTLED, state
        reason = (
            f"the halves of {now.batch_size} samples have cosine {cosine:.3f}, the target is {self.target:g}: "
            f"{batch_size} samples"
        )
        evidence = {"cosine": cosine, "target": float(self.target)}
        return Decision(batch_size, code="noise-changed", reason=reason, evidence=evidence), FollowerState(batch_size)
