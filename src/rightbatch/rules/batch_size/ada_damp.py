"""AdaDamp: the batch grows as the loss falls."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from ...decision import Decision, Needs, Plan, StepContext
from ...ranges import require_number, require_whole

GATHERING = Decision(reason="hold: the loss is being averaged")
NOT_FINITE = Decision(reason="hold: the loss is not finite")
UNCHANGED = Decision(reason="hold: the loss asks for the same batch size")


@dataclass(frozen=True, slots=True)
class AdaDampState:
    """The size decided, the excess loss F(x_0) - F* (None until known), and the losses summed since the last look."""

    batch_size: int
    first_excess: float | None = None
    loss_sum: float = 0.0
    loss_samples: int = 0
    steps: int = 0


@dataclass(frozen=True, slots=True)
class AdaDamp:
    """Let the batch grow as the loss falls, b_k = ⌈b0 · (F(x_0) - F*)/(F(x_k) - F*)⌉, looking every `dwell_steps`.

    | symbol | argument | meaning |
    |---|---|---|
    | b0 | initial | first batch |
    | F | loss | training loss, here the mean over the samples of the last `dwell_steps` steps |
    | F* | least_loss | the least loss there is |

    Where the loss is at or below F* the formula has no value: the largest batch is taken.

    Args:
        initial: b0.
        least_loss: F*.
        dwell_steps: steps between looks.
        max_size: largest batch; None is all the data.

    Raises:
        InputError: a setting out of its range.

    Reference: S. Sievert, S. Shah, "Improving the convergence of SGD through adaptive batch sizes" (arXiv 1910.08222,
    2021), AdaDamp; the dwell of 20 steps is its software's. The paper evaluates F on all the data at each look; this
    takes the losses that training gives for nothing, which lag by half a dwell, also for F(x_0).
    """

    initial: int = 32
    least_loss: float = 0.0
    dwell_steps: int = 20
    max_size: int | None = None

    name: ClassVar[str] = "ada-damp"
    needs: ClassVar[Needs] = Needs.NOTHING
    enlarges_current: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        require_whole("AdaDamp.initial", self.initial, least=1)
        require_number("AdaDamp.least_loss", self.least_loss)
        require_whole("AdaDamp.dwell_steps", self.dwell_steps, least=1)
        if self.max_size is not None:
            require_whole("AdaDamp.max_size", self.max_size, least=1)

    def start(self, plan: Plan) -> tuple[Decision, AdaDampState]:
        """Decide the first batch."""
        batch_size = min(int(self.initial), self._cap(plan.train_samples))
        reason = f"start with {batch_size} samples and grow as the loss falls"
        return Decision(batch_size=batch_size, reason=reason), AdaDampState(batch_size)

    def decide(self, now: StepContext, state: AdaDampState) -> tuple[Decision, AdaDampState]:
        """Average the loss, or look at it."""
        if not math.isfinite(now.loss):
            return NOT_FINITE, state
        total, samples = state.loss_sum + now.loss * now.batch_size, state.loss_samples + now.batch_size
        if state.steps + 1 < self.dwell_steps:
            return GATHERING, replace(state, loss_sum=total, loss_samples=samples, steps=state.steps + 1)
        excess = total / samples - self.least_loss
        first_excess = excess if state.first_excess is None else state.first_excess
        cap = self._cap(now.train_samples)
        wanted = self.initial * first_excess / excess if excess > 0 else math.inf
        batch_size = max(1, math.ceil(wanted)) if wanted < cap else cap
        after = AdaDampState(batch_size, first_excess)
        if batch_size == state.batch_size:
            return UNCHANGED, after
        reason = (
            f"the loss above {self.least_loss:g} has gone from {first_excess:.4g} to {excess:.4g}: {batch_size} samples"
        )
        evidence = {"first_excess": first_excess, "excess": excess}
        return Decision(batch_size=batch_size, reason=reason, evidence=evidence), after

    def _cap(self, train_samples: int) -> int:
        return train_samples if self.max_size is None else min(int(self.max_size), train_samples)
