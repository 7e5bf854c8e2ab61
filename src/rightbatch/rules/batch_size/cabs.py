"""CABS: the batch coupled to the learning rate, the gradient's variance and the loss."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ...citation import Citation
from ...decision import Decision, Needs, Plan, StepContext
from ...ranges import require_number
from ..bounds import require_sizes, within

NOT_FINITE = Decision(code="not-finite", reason="hold: the loss is not finite")
UNMEASURED = Decision(code="not-measured", reason="hold: the gradient noise of this batch was not measured")
SETTLED = Decision(code="held", reason="hold: variance and loss ask for the same batch size")


@dataclass(frozen=True, slots=True)
class CABSState:
    """The batch size decided and the averages of variance and loss, which start at 0 and 1."""

    batch_size: int
    variance: float = 0.0
    loss: float = 1.0


@dataclass(frozen=True, slots=True)
class CABS:
    """Couple the batch size to the learning rate, b = c · α · ξ̄/F̄: variance times learning rate over loss.

    | symbol | argument | meaning |
    |---|---|---|
    | c | scale | constant of proportion |
    | α | lr | the step of the previous update |
    | ξ | measurement.variance | trace of the batch's covariance, normalised by 1/b: V̂·(b - 1)/b |
    | F | loss | loss of the batch less F* |
    | F* | least_loss | the smallest possible loss |
    | bars | decay | averages x̄ ← decay·x̄ + (1 - decay)·x from ξ̄ = 0 and F̄ = 1, without correction of the bias |

    The loss stands for the distance to the optimum. The averages' start holds the batch small for the first steps.
    Halving α halves b. For plain SGD. Where F̄ is not above 0 the rule takes the largest batch.

    Args:
        initial: size of the first batch.
        min_size: smallest batch size.
        max_size: largest batch size; None is all the data.
        scale: c.
        decay: of the averages, in [0, 1).
        least_loss: F*.

    Raises:
        InputError: a setting out of its range, or min_size above max_size.

    Reference: Balles, Romero and Hennig 2017, its software for the averages, bounds and first size. Differs: the
    variance is measured, also of convolutions, where the paper approximates it; F* is ours, 0 in the paper.
    """

    initial: int = 16
    min_size: int = 16
    max_size: int | None = 2048
    scale: float = 1.0
    decay: float = 0.95
    least_loss: float = 0.0

    name: ClassVar[str] = "cabs"
    reference: ClassVar[Citation | None] = Citation(
        ("L. Balles", "J. Romero", "P. Hennig"),
        "Coupling Adaptive Batch Sizes with Learning Rates",
        2017,
        "UAI; arXiv 1612.05086",
    )
    needs: ClassVar[Needs] = Needs.EVERY_BATCH
    enlarges_current: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the settings."""
        require_sizes("CABS", self.initial, self.max_size, self.min_size)
        require_number("CABS.scale", self.scale, above=0)
        require_number("CABS.decay", self.decay, least=0, most=1 - 1e-12)
        require_number("CABS.least_loss", self.least_loss)

    def start(self, plan: Plan) -> tuple[Decision, CABSState]:
        """Decide the first batch."""
        batch_size = within(self.initial, self.min_size, self.max_size, plan.train_samples)
        reason = f"start with {batch_size} samples until variance and loss are averaged"
        return Decision(batch_size, code="initial", reason=reason), CABSState(batch_size)

    def decide(self, now: StepContext, state: CABSState) -> tuple[Decision, CABSState]:
        """Average, and move to the size of the averages."""
        if not math.isfinite(now.loss):
            return NOT_FINITE, state
        if now.measurement is None or not math.isfinite(now.measurement.variance):
            return UNMEASURED, state
        b, decay = now.measurement.samples, self.decay
        variance = decay * state.variance + (1 - decay) * now.measurement.variance * (b - 1) / b
        loss = decay * state.loss + (1 - decay) * (now.loss - self.least_loss)
        wanted = self.scale * now.lr * variance / loss if loss > 0 else math.inf
        batch_size = within(wanted, self.min_size, self.max_size, now.train_samples)
        after = CABSState(batch_size, variance, loss)
        if batch_size == state.batch_size:
            return SETTLED, after
        reason = f"variance {variance:.3g} at learning rate {now.lr:.3g} and loss {loss:.3g}: {batch_size} samples"
        evidence = {"variance": variance, "loss": loss, "lr": now.lr, "wanted": wanted}
        return Decision(batch_size, code="noise-changed", reason=reason, evidence=evidence), after
