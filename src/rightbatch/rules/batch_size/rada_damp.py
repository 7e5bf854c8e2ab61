"""RadaDamp: the batch grows as rolling averages of loss and gradient norm fall."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from ...citation import Citation
from ...decision import Decision, Needs, Plan, StepContext
from ...ranges import require_number, require_whole
from ..bounds import largest, require_sizes
from ..papers import DAMPING

WAITING = Decision(code="averaging", reason="hold: the first losses and gradients are being averaged")
BETWEEN = Decision(code="between-checks", reason="hold: the next check is not due yet")
NOT_FINITE = Decision(code="not-finite", reason="hold: loss or gradient is not finite")
UNCHANGED = Decision(code="held", reason="hold: loss and gradient ask for the same batch size")
FLAT = Decision(code="no-reference", reason="hold: the first losses or gradients were not above 0")


@dataclass(frozen=True, slots=True)
class RadaDampState:
    """The size decided, the steps seen, rolling averages of loss and ‖g_B‖², and their values after the wait."""

    batch_size: int
    steps: int = 0
    loss: float = 0.0
    gradient_norm2: float = 0.0
    first_loss: float = 0.0
    first_gradient_norm2: float = 0.0


@dataclass(frozen=True, slots=True)
class RadaDamp:
    """Grow the batch as loss and gradient fall, b_k = ⌈b0 / (½·F̄_k/F̄_0 + ½·ḡ_k/ḡ_0)⌉, never below b0.

    | symbol | argument | meaning |
    |---|---|---|
    | b0 | initial | first batch |
    | F̄ | loss | rolling average of the batches' losses |
    | ḡ | gradient_norm2 | rolling average of ‖g_B‖² |
    | ρ | rho | weight of the average itself at each step |
    | F̄_0, ḡ_0 | | plain averages of the first `wait_steps` steps, from which the rolling ones start |

    ‖g_B‖² holds V̂/b of noise, which falls as the batch grows: where noise dominates, the second term feeds on itself.

    Args:
        initial: b0.
        rho: ρ, below 1.
        wait_steps: steps before the batch may grow.
        dwell_steps: steps between checks from then on.
        max_size: largest batch size; None is all the data.

    Raises:
        InputError: a setting out of its range.

    Reference: Sievert and Shah 2021, RadaDamp. Differs: F̄_0 and ḡ_0 are averages over the wait; its software varies
    between releases.
    """

    initial: int = 32
    rho: float = 0.999
    wait_steps: int = 100
    dwell_steps: int = 20
    max_size: int | None = None

    name: ClassVar[str] = "rada-damp"
    reference: ClassVar[Citation | None] = DAMPING.at("RadaDamp")
    needs: ClassVar[Needs] = Needs.NOTHING
    enlarges_current: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the settings."""
        require_sizes("RadaDamp", self.initial, self.max_size)
        require_number("RadaDamp.rho", self.rho, least=0, most=1 - 1e-9)
        require_whole("RadaDamp.wait_steps", self.wait_steps, least=1)
        require_whole("RadaDamp.dwell_steps", self.dwell_steps, least=1)

    def start(self, plan: Plan) -> tuple[Decision, RadaDampState]:
        """Decide the first batch."""
        batch_size = min(int(self.initial), largest(self.max_size, plan.train_samples))
        reason = f"start with {batch_size} samples and grow as loss and gradient fall"
        return Decision(batch_size, code="initial", reason=reason), RadaDampState(batch_size)

    def decide(self, now: StepContext, state: RadaDampState) -> tuple[Decision, RadaDampState]:
        """Average loss and gradient, or check the averages."""
        if not math.isfinite(now.loss) or not math.isfinite(now.gradient_norm2):
            return NOT_FINITE, state
        steps = state.steps + 1
        weight = 1 - 1 / steps if steps <= self.wait_steps else self.rho
        loss = weight * state.loss + (1 - weight) * now.loss
        norm2 = weight * state.gradient_norm2 + (1 - weight) * now.gradient_norm2
        state = replace(state, steps=steps, loss=loss, gradient_norm2=norm2)
        if steps <= self.wait_steps:
            return WAITING, replace(state, first_loss=loss, first_gradient_norm2=norm2)
        if (steps - self.wait_steps) % self.dwell_steps:
            return BETWEEN, state
        if state.first_loss <= 0 or state.first_gradient_norm2 <= 0:
            return FLAT, state
        share = 0.5 * loss / state.first_loss + 0.5 * norm2 / state.first_gradient_norm2
        cap = largest(self.max_size, now.train_samples)
        wanted = self.initial / share if share > 0 else math.inf
        batch_size = min(cap, max(int(self.initial), math.ceil(wanted))) if wanted < cap else cap
        if batch_size == state.batch_size:
            return UNCHANGED, state
        reason = f"loss and gradient fell to {share:.3g} of their first values: {batch_size} samples"
        evidence = {"loss": loss, "gradient_norm2": norm2, "share": share}
        decision = Decision(batch_size, code="loss-changed", reason=reason, evidence=evidence)
        return decision, replace(state, batch_size=batch_size)
