"""AdaDamp: the batch grows as the loss falls."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from ...citation import Citation
from ...decision import Decision, Needs, Plan, StepContext
from ...ranges import require_number, require_whole
from ..bounds import largest, require_sizes
from ..papers import DAMPING

GATHERING = Decision(code="averaging", reason="hold: the loss is being averaged")
NOT_FINITE = Decision(code="not-finite", reason="hold: the loss is not finite")
UNCHANGED = Decision(code="held", reason="hold: the loss asks for the same batch size")


@dataclass(frozen=True, slots=True)
class AdaDampState:
    """The size decided, the excess loss F(x_0) - F* (None until known), and the losses since the last decision."""

    batch_size: int
    first_excess: float | None = None
    loss_sum: float = 0.0
    loss_samples: int = 0
    steps: int = 0


@dataclass(frozen=True, slots=True)
class AdaDamp:
    """Grow the batch as the loss falls, b_k = ⌈b0 · (F(x_0) - F*)/(F(x_k) - F*)⌉, every `dwell_steps` steps.

    | symbol | argument | meaning |
    |---|---|---|
    | b0 | initial | first batch |
    | F | loss | training loss, here the mean over the samples of the last `dwell_steps` steps |
    | F* | least_loss | the smallest possible loss |

    Where the loss is at or below F* the formula has no value, and the rule takes the largest batch.

    Args:
        initial: b0.
        least_loss: F*.
        dwell_steps: steps between decisions.
        max_size: largest batch size; None is all the data.

    Raises:
        InputError: a setting out of its range.

    Reference: Sievert and Shah 2021, AdaDamp, with the 20 steps of its software. Differs: the paper evaluates F on all
    the data at each decision; this rule averages the losses of training, which lag by half of `dwell_steps`, also for
    F(x_0).
    """

    initial: int = 32
    least_loss: float = 0.0
    dwell_steps: int = 20
    max_size: int | None = None

    name: ClassVar[str] = "ada-damp"
    reference: ClassVar[Citation | None] = DAMPING.at("AdaDamp")
    needs: ClassVar[Needs] = Needs.NOTHING
    enlarges_current: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the settings."""
        require_sizes("AdaDamp", self.initial, self.max_size)
        require_number("AdaDamp.least_loss", self.least_loss)
        require_whole("AdaDamp.dwell_steps", self.dwell_steps, least=1)

    def start(self, plan: Plan) -> tuple[Decision, AdaDampState]:
        """Decide the first batch."""
        batch_size = min(int(self.initial), largest(self.max_size, plan.train_samples))
        reason = f"start with {batch_size} samples and grow as the loss falls"
        return Decision(batch_size, code="initial", reason=reason), AdaDampState(batch_size)

    def decide(self, now: StepContext, state: AdaDampState) -> tuple[Decision, AdaDampState]:
        """Average the loss, or decide by the average."""
        if not math.isfinite(now.loss):
            return NOT_FINITE, state
        total, samples = state.loss_sum + now.loss * now.batch_size, state.loss_samples + now.batch_size
        if state.steps + 1 < self.dwell_steps:
            return GATHERING, replace(state, loss_sum=total, loss_samples=samples, steps=state.steps + 1)
        excess = total / samples - self.least_loss
        first_excess = excess if state.first_excess is None else state.first_excess
        cap = largest(self.max_size, now.train_samples)
        wanted = self.initial * first_excess / excess if excess > 0 else math.inf
        batch_size = max(1, math.ceil(wanted)) if wanted < cap else cap
        after = AdaDampState(batch_size, first_excess)
        if batch_size == state.batch_size:
            return UNCHANGED, after
        reason = (
            f"the loss above {self.least_loss:g} went from {first_excess:.4g} to {excess:.4g}: {batch_size} samples"
        )
        evidence = {"first_excess": first_excess, "excess": excess}
        return Decision(batch_size, code="loss-changed", reason=reason, evidence=evidence), after
