"""Adam's second moment with a half-life in samples."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from ...citation import Citation
from ...decision import Plan, StepContext
from ...errors import UnsupportedError
from .batch_scaled import ForOneBatch
from .lr_wrapper import Altered


@dataclass(frozen=True, slots=True)
class HalfLifeState:
    """The batch β2 was found for, 0 before the first, and that β2."""

    at: int
    beta2: float


@dataclass(frozen=True, slots=True)
class Beta2HalfLife(ForOneBatch):
    """Hold the half-life of Adam's second moment constant in samples, or tokens, β2(b) = β2^(b/b0).

    The rule within sets the rate: put this around a rule that scales it. For all b down to 1.

    | symbol | argument | meaning |
    |---|---|---|
    | β2 | settings | the optimizer's own at the start, found for b0; RMSprop's alpha |
    | b0 | at | that batch |
    | b | batch_size | the current batch |

    Args:
        rule: the rule within, or its text or number; by default the optimizer's own rate.
        at: b0; None is the first batch of the run.

    Raises:
        InputError: a setting out of its range, or a rule within that computes the rate for each batch itself.
        UnsupportedError: when a run starts, an optimizer without beta2.

    Reference: Marek et al. 2025. The exponent is the half-life solved for β2.
    """

    name: ClassVar[str] = "beta2-half-life"
    reference: ClassVar[Citation | None] = Citation(
        ("M. Marek", "S. Lotfi", "A. Somasundaram", "A. G. Wilson", "M. Goldblum"),
        "Small Batch Size Training for Language Models: When Vanilla SGD Works, and Why Gradient Accumulation Is "
        "Wasteful",
        2025,
        "arXiv 2507.07101",
    )

    def _begin(self, rate: float, plan: Plan) -> Altered:
        if "beta2" not in plan.settings:
            raise UnsupportedError(
                f"The lr rule 'beta2-half-life' changes beta2, which {plan.optimizer or 'the optimizer'} does not "
                "have: use Adam, AdamW or RMSprop, or another lr rule."
            )
        return Altered(rate, own=HalfLifeState(self.at or 0, float(plan.settings["beta2"])))

    def _alter(self, rate: float, now: StepContext, own: Any) -> Altered:
        at = own.at or now.batch_size
        beta2 = own.beta2 ** (now.batch_size / at)
        half_life = at * math.log(0.5) / math.log(own.beta2) if 0 < own.beta2 < 1 else math.nan
        why = "" if now.batch_size == at else f"beta2 {beta2:.6g}: its half-life stays {half_life:.3g} samples"
        return Altered(rate, why, {"beta2": beta2}, own=HalfLifeState(at, own.beta2))
