"""The learning rate that the noise allows: full for a clean gradient, lower for batches below the noise scale."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ...citation import Citation
from ...decision import Decision, Needs, Plan, Search, StepContext
from ...errors import InputError
from ...ranges import require_number, require_whole
from ..papers import NOISE_SCALE

UNMEASURED = Decision(code="not-measured", reason="hold: the gradient noise is not known yet")
SETTLED = Decision(code="held", reason="hold: batch and noise ask for the same learning rate")
DEAD_BAND = 0.01


@dataclass(frozen=True, slots=True)
class NoiseScaledState:
    """The learning rate to scale: the rule's, or the optimizer's own at the start."""

    lr: float


@dataclass(frozen=True, slots=True)
class NoiseScaled:
    """Set η(b) = η_max/(1 + B_noise/b); or η(b) = η·(1 + B_noise/at)/(1 + B_noise/b), η found for batches of `at`.

    | symbol | argument | meaning |
    |---|---|---|
    | η_max, η | lr | the rate for a gradient without noise; with `at`, for batches of `at` |
    | B_noise | noise.noise_scale | noise scale in samples |
    | b | batch_size | samples in the current batch |

    The ratio with `at` is linear in b while the noise dominates and flat once it does not. While the signal is not
    resolved from zero, the lower bound `noise.low` stands for the noise scale. The rate changes by more than 1 % or not
    at all.

    Args:
        lr: None takes the optimizer's own at the start.
        at: the batch size that lr was found for; None: lr is η_max.

    Raises:
        InputError: a setting out of its range; when a run starts, no learning rate.

    Reference: McCandlish, Kaplan and Amodei 2018, section 2; with `at` the gain of T. Johnson et al., "AdaScale SGD"
    (ICML 2020), for any b and not only multiples of the base batch. For SGD; adaptive optimizers need less.
    """

    lr: float | None = None
    at: int | None = None

    name: ClassVar[str] = "noise-scaled"
    reference: ClassVar[Citation | None] = NOISE_SCALE.at("section 2")
    needs: ClassVar[Needs] = Needs.NOISE
    searches: ClassVar[bool] = False
    averages: ClassVar[bool] = False
    guards: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.lr is not None:
            require_number("NoiseScaled.lr", self.lr, above=0)
        if self.at is not None:
            require_whole("NoiseScaled.at", self.at, least=1)

    def start(self, plan: Plan) -> tuple[Decision, NoiseScaledState]:
        """Start at the learning rate given, until the noise is known."""
        lr = float(plan.lr if self.lr is None else self.lr)
        if not lr > 0:
            raise InputError(
                f"NoiseScaled has a learning rate of {lr:g} to scale: give it, or the optimizer, one above 0."
            )
        reason = f"start at {lr:g} until the noise is measured"
        return Decision(lr=lr, code="initial", reason=reason), NoiseScaledState(lr)

    def decide(self, now: StepContext, state: NoiseScaledState) -> Search:
        """Scale to the current batch and noise."""
        yield from ()
        scale = now.known_noise_scale
        if not 0 < scale < math.inf:
            return UNMEASURED, state
        lr = state.lr / (1 + scale / now.batch_size)
        if self.at is not None:
            lr *= 1 + scale / self.at
        if abs(lr - now.lr) <= DEAD_BAND * now.lr:
            return SETTLED, state
        reason = f"noise scale {scale:.0f} at {now.batch_size} samples: {lr:.3g}"
        evidence = {"noise_scale": scale, "samples": float(now.batch_size)}
        return Decision(lr=lr, code="noise-changed", reason=reason, evidence=evidence), state
