"""A batch size that grows when the loss stops falling."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ...citation import Citation
from ...decision import Decision, Needs, Plan, StepContext
from ...ranges import require_number, require_whole
from ..bounds import largest, require_sizes
from ..stages import grown, length_samples, require_length

GATHERING = Decision(code="averaging", reason="hold: the loss is being averaged")
FALLING = Decision(code="improving", reason="hold: the loss still falls")
PATIENT = Decision(code="patient", reason="hold: the loss does not fall, patience is not exhausted")
LIMITED = Decision(code="at-limit", reason="hold: the loss does not fall, but the batch size is at its limit")
NOT_FINITE = Decision(code="not-finite", reason="hold: the loss is not finite")


@dataclass(frozen=True, slots=True)
class PlateauState:
    """The size decided, the best mean loss (None at first), checks without a better one, and the running sum."""

    batch_size: int
    best: float | None = None
    bad_checks: int = 0
    loss_sum: float = 0.0
    loss_samples: int = 0


@dataclass(frozen=True, slots=True)
class Plateau:
    """Multiply the batch size by a factor when the mean training loss has not improved in more than `patience` checks.

    A check takes the mean loss over the samples since the last one; an improvement is a loss below the best by more
    than threshold·|best|. The counterpart of reducing the learning rate on a plateau, without validation data.

    Args:
        initial: first batch.
        factor: growth, above 1.
        threshold: smallest relative improvement that counts.
        patience: checks without improvement before the batch size grows.
        every_epochs: samples between checks, in passes over the data.
        every_samples: the same in samples; takes precedence over every_epochs.
        max_size: largest batch size; None is all the data.

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
    reference: ClassVar[Citation | None] = None
    needs: ClassVar[Needs] = Needs.NOTHING
    enlarges_current: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the settings."""
        require_sizes("Plateau", self.initial, self.max_size)
        require_number("Plateau.factor", self.factor, above=1)
        require_number("Plateau.threshold", self.threshold, least=0)
        require_whole("Plateau.patience", self.patience, least=0)
        require_length("Plateau.every", self.every_epochs, self.every_samples)

    def start(self, plan: Plan) -> tuple[Decision, PlateauState]:
        """Decide the first batch."""
        batch_size = min(int(self.initial), largest(self.max_size, plan.train_samples))
        reason = f"start with {batch_size} samples and grow when the loss stops falling"
        return Decision(batch_size, code="initial", reason=reason), PlateauState(batch_size)

    def decide(self, now: StepContext, state: PlateauState) -> tuple[Decision, PlateauState]:
        """Average the loss, or check the average."""
        if not math.isfinite(now.loss):
            return NOT_FINITE, state
        b, total, samples = (
            state.batch_size,
            state.loss_sum + now.loss * now.batch_size,
            state.loss_samples + now.batch_size,
        )
        if samples < length_samples(self.every_epochs, self.every_samples, now.train_samples):
            return GATHERING, PlateauState(b, state.best, state.bad_checks, total, samples)
        loss, best = total / samples, state.best
        if best is None or loss < best - self.threshold * abs(best):
            return FALLING, PlateauState(b, loss)
        if state.bad_checks < self.patience:
            return PATIENT, PlateauState(b, best, state.bad_checks + 1)
        batch_size = max(b, grown(b, self.factor, 1, largest(self.max_size, now.train_samples)))
        if batch_size == b:
            return LIMITED, PlateauState(b, best)
        reason = f"mean loss {loss:.4g} after {best:.4g}, {self.patience + 1} checks without gain: {batch_size} samples"
        evidence = {"loss": loss, "best": best}
        return Decision(batch_size, code="plateau", reason=reason, evidence=evidence), PlateauState(batch_size, best)
