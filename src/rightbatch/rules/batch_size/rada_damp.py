"""RadaDamp: the batch grows as rolling averages of loss and gradient norm fall."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from ...decision import Decision, Needs, Plan, StepContext
from ...ranges import require_number, require_whole

WAITING = Decision(reason="hold: the first losses and gradients are being averaged")
DWELLING = Decision(reason="hold: it is not yet time to look")
NOT_FINITE = Decision(reason="hold: loss or gradient is not finite")
UNCHANGED = Decision(reason="hold: loss and gradient ask for the same batch size")
FLAT = Decision(reason="hold: the first losses or gradients were not above 0, nothing can be compared with them")


@dataclass(frozen=True, slots=True)
class RadaDampState:
    """The size decided, the steps seen, rolling averages of loss and ‖g_B‖², and what they were after the wait."""

    batch_size: int
    steps: int = 0
    loss: float = 0.0
    gradient_norm2: float = 0.0
    first_loss: float = 0.0
    first_gradient_norm2: float = 0.0


@dataclass(frozen=True, slots=True)
class RadaDamp:
    """Let the batch grow as loss and gradient fall, b_k = ⌈b0 / (½·F̄_k/F̄_0 + ½·ḡ_k/ḡ_0)⌉, never below b0.

    | symbol | argument | meaning |
    |---|---|---|
    | b0 | initial | first batch |
    | F̄ | loss | rolling average of the batches' losses |
    | ḡ | gradient_norm2 | rolling average of ‖g_B‖² |
    | ρ | rho | an average keeps ρ of itself at each step |
    | F̄_0, ḡ_0 | | plain averages of the first `wait_steps` steps, with which the rolling ones begin |

    ‖g_B‖² holds V̂/b of noise, which falls as the batch grows: where noise dominates, the second share feeds on itself.

    Args:
        initial: b0.
        rho: ρ, below 1.
        wait_steps: steps before the batch may grow.
        dwell_steps: steps between looks from then on.
        max_size: largest batch; None is all the data.

    Raises:
        InputError: a setting out of its range.

    Reference: S. Sievert, S. Shah, "Improving the convergence of SGD through adaptive batch sizes" (arXiv 1910.08222,
    2021), RadaDamp. The software's version differs between releases; that F̄_0 and ḡ_0 are averages over the wait is
    ours.
    """

    initial: int = 32
    rho: float = 0.999
    wait_steps: int = 100
    dwell_steps: int = 20
    max_size: int | None = None

    name: ClassVar[str] = "rada-damp"
    needs: ClassVar[Needs] = Needs.NOTHING
    enlarges_current: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        require_whole("RadaDamp.initial", self.initial, least=1)
        require_number("RadaDamp.rho", self.rho, least=0, most=1 - 1e-9)
        require_whole("RadaDamp.wait_steps", self.wait_steps, least=1)
        require_whole("RadaDamp.dwell_steps", self.dwell_steps, least=1)
        if self.max_size is not None:
            require_whole("RadaDamp.max_size", self.max_size, least=1)

    def start(self, plan: Plan) -> tuple[Decision, RadaDampState]:
        """Decide the first batch."""
        batch_size = min(int(self.initial), self._cap(plan.train_samples))
        reason = f"start with {batch_size} samples and grow as loss and gradient fall"
        return Decision(batch_size=batch_size, reason=reason), RadaDampState(batch_size)

    def decide(self, now: StepContext, state: RadaDampState) -> tuple[Decision, RadaDampState]:
        """Average loss and gradient, or look at them."""
        if not math.isfinite(now.loss) or not math.isfinite(now.gradient_norm2):
            return NOT_FINITE, state
        steps = state.steps + 1
        kept = 1 - 1 / steps if steps <= self.wait_steps else self.rho
        loss = kept * state.loss + (1 - kept) * now.loss
        norm2 = kept * state.gradient_norm2 + (1 - kept) * now.gradient_norm2
        state = replace(state, steps=steps, loss=loss, gradient_norm2=norm2)
        if steps <= self.wait_steps:
            return WAITING, replace(state, first_loss=loss, first_gradient_norm2=norm2)
        if (steps - self.wait_steps) % self.dwell_steps:
            return DWELLING, state
        if state.first_loss <= 0 or state.first_gradient_norm2 <= 0:
            return FLAT, state
        share = 0.5 * loss / state.first_loss + 0.5 * norm2 / state.first_gradient_norm2
        cap = self._cap(now.train_samples)
        wanted = self.initial / share if share > 0 else math.inf
        batch_size = min(cap, max(int(self.initial), math.ceil(wanted))) if wanted < cap else cap
        if batch_size == state.batch_size:
            return UNCHANGED, state
        reason = f"loss and gradient have fallen to {share:.3g} of what they were: {batch_size} samples"
        evidence = {"loss": loss, "gradient_norm2": norm2, "share": share}
        return Decision(batch_size=batch_size, reason=reason, evidence=evidence), replace(state, batch_size=batch_size)

    def _cap(self, train_samples: int) -> int:
        return train_samples if self.max_size is None else min(int(self.max_size), train_samples)
