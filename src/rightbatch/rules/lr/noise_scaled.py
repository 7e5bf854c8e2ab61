"""The step the noise allows: full length for a clean gradient, shorter as the batch falls below the noise scale."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ...decision import Decision, Needs, Plan, Search, StepContext
from ...errors import InputError
from ...ranges import require_number, require_whole

UNMEASURED = Decision(reason="hold: the gradient noise is not known yet")
SETTLED = Decision(reason="hold: batch and noise ask for the same step size")
DEAD_BAND = 0.01


@dataclass(frozen=True, slots=True)
class NoiseScaledState:
    """The learning rate that is scaled: the rule's, or the optimizer's own at the start."""

    lr: float


@dataclass(frozen=True, slots=True)
class NoiseScaled:
    """η(b) = η_max/(1 + B_noise/b); or η(b) = η·(1 + B_noise/at)/(1 + B_noise/b), η being right at batches of `at`.

    | symbol | argument | meaning |
    |---|---|---|
    | η_max, η | lr | the step for a gradient without noise; with `at`, the step for batches of `at` |
    | B_noise | noise.noise_scale | noise scale in samples |
    | b | batch_size | samples in the current batch |

    The ratio with `at` is linear in b while the noise dominates and flat once it does not. While the signal is not told
    from zero the noise scale is taken as what it is at least, `noise.low`; the step changes when it would by more than
    1 %.

    Args:
        lr: None takes the optimizer's own at the start.
        at: the batch size that lr was found for; None where it is η_max.

    Raises:
        InputError: a setting out of its range, or no learning rate from anywhere when a run starts.

    Reference: S. McCandlish, J. Kaplan, D. Amodei, "An Empirical Model of Large-Batch Training" (arXiv 1812.06162,
    2018), section 2; with `at` the gain of T. Johnson, P. Agrawal, H. Gu, C. Guestrin, "AdaScale SGD" (ICML 2020), for
    any b and not only multiples of the base batch. For SGD; adaptive optimizers need less.
    """

    lr: float | None = None
    at: int | None = None

    name: ClassVar[str] = "noise-scaled"
    needs: ClassVar[Needs] = Needs.NOISE
    searches: ClassVar[bool] = False
    averages: ClassVar[bool] = False
    guards: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        if self.lr is not None:
            require_number("NoiseScaled.lr", self.lr, above=0)
        if self.at is not None:
            require_whole("NoiseScaled.at", self.at, least=1)

    def start(self, plan: Plan) -> tuple[Decision, NoiseScaledState]:
        """Begin at the learning rate given, until the noise is known."""
        lr = float(plan.lr if self.lr is None else self.lr)
        if not lr > 0:
            raise InputError(
                f"The noise-scaled step has a learning rate of {lr:g} to scale: give NoiseScaled a "
                "lr or the optimizer one above 0."
            )
        reason = f"start at {lr:g} until the noise is measured"
        return Decision(lr=lr, reason=reason), NoiseScaledState(lr)

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
        reason = f"noise scale {scale:.0f} against {now.batch_size} samples: step size {lr:.3g}"
        evidence = {"noise_scale": scale, "samples": float(now.batch_size)}
        return Decision(lr=lr, reason=reason, evidence=evidence), state
