"""A batch that grows when the loss stops falling."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ...decision import Decision, Needs, Plan, StepContext
from ...ranges import require_number, require_whole
from ..stages import grown, length_samples, require_length

GATHERING = Decision(reason="hold: the loss is being averaged")
FALLING = Decision(reason="hold: the loss still falls")
PATIENT = Decision(reason="hold: the loss does not fall, but patience is not over")
LIMITED = Decision(reason="hold: the loss does not fall, but the batch may not grow any more")
NOT_FINITE = Decision(reason="hold: the loss is not finite")


@dataclass(frozen=True, slots=True)
class PlateauState:
    """The size decided, the best mean loss (None before the first), looks without a better one, and the running sum."""

    batch_size: int
    best: float | None = None
    bad_looks: int = 0
    loss_sum: float = 0.0
    loss_samples: int = 0


@dataclass(frozen=True, slots=True)
class Plateau:
    """Multiply the batch by a factor when the mean training loss has not become better for more than `patience` looks.

    A look takes the mean loss over the samples since the last one; better is less than the best by more than
    threshold·|best|. It does for the batch what reducing the rate on a plateau does for the rate, and asks for no
    validation data.

    Args:
        initial: first batch.
        factor: growth, above 1.
        threshold: relative improvement that counts.
        patience: looks without improvement that are borne.
        every_epochs: samples between looks, in passes over the data.
        every_samples: the same in samples; None leaves that to every_epochs.
        max_size: largest batch; None is all the data.

    Raises:
        InputError: a setting out of its range.
    """

    initial: int = 32
    factor: float = 2.0
    threshold: float = 0.01
    patience: int = 1
    every_epochs: float = 1.0
    every_samples: int | None = None
    max_size: int | None = None

    name: ClassVar[str] = "plateau"
    needs: ClassVar[Needs] = Needs.NOTHING
    enlarges_current: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        require_whole("Plateau.initial", self.initial, least=1)
        require_number("Plateau.factor", self.factor, above=1)
        require_number("Plateau.threshold", self.threshold, least=0)
        require_whole("Plateau.patience", self.patience, least=0)
        require_length("Plateau.every", self.every_epochs, self.every_samples)
        if self.max_size is not None:
            require_whole("Plateau.max_size", self.max_size, least=1)

    def start(self, plan: Plan) -> tuple[Decision, PlateauState]:
        """Decide the first batch."""
        batch_size = min(int(self.initial), self._cap(plan.train_samples))
        reason = f"start with {batch_size} samples and grow when the loss stops falling"
        return Decision(batch_size=batch_size, reason=reason), PlateauState(batch_size)

    def decide(self, now: StepContext, state: PlateauState) -> tuple[Decision, PlateauState]:
        """Average the loss, or look at it."""
        if not math.isfinite(now.loss):
            return NOT_FINITE, state
        b, total, samples = (
            state.batch_size,
            state.loss_sum + now.loss * now.batch_size,
            state.loss_samples + now.batch_size,
        )
        if samples < length_samples(self.every_epochs, self.every_samples, now.train_samples):
            return GATHERING, PlateauState(b, state.best, state.bad_looks, total, samples)
        loss, best = total / samples, state.best
        if best is None or loss < best - self.threshold * abs(best):
            return FALLING, PlateauState(b, loss)
        if state.bad_looks < self.patience:
            return PATIENT, PlateauState(b, best, state.bad_looks + 1)
        batch_size = max(b, grown(b, self.factor, 1, self._cap(now.train_samples)))
        if batch_size == b:
            return LIMITED, PlateauState(b, best)
        reason = f"mean loss {loss:.4g} after {best:.4g}, {self.patience + 1} looks without gain: {batch_size} samples"
        evidence = {"loss": loss, "best": best}
        return Decision(batch_size=batch_size, reason=reason, evidence=evidence), PlateauState(batch_size, best)

    def _cap(self, train_samples: int) -> int:
        return train_samples if self.max_size is None else min(int(self.max_size), train_samples)
