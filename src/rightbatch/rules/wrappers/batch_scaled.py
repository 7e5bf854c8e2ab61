"""The base of the rules that scale a learning rate with the batch size."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

from ...decision import Plan, StepContext
from ...ranges import require_whole
from .lr_wrapper import Altered, LRWrapper


@dataclass(frozen=True, slots=True)
class ScaledState:
    """The batch the rate was found for, 0 before the first batch, and the factor last applied."""

    at: int
    factor: float


@dataclass(frozen=True, slots=True)
class ForOneBatch(LRWrapper):
    """A rule whose rate was found for one batch size and is changed for others.

    Args:
        rule: the rule within, or its text or number; by default the optimizer's own rate.
        at: the batch that its rate was found for; None is the first batch of the run.

    Raises:
        InputError: a setting out of its range, or a rule within that computes the rate for each batch itself.
    """

    at: int | None = None

    def __post_init__(self) -> None:
        """Build the rule within and check the settings."""
        LRWrapper.__post_init__(self)
        who = type(self).__name__
        if self.at is not None:
            require_whole(f"{who}.at", self.at, least=1)
        self.require_rate_within()


@dataclass(frozen=True, slots=True)
class BatchScaled(ForOneBatch):
    """The rate of the rule within times a factor that depends on the batch: η(b) = f(b)·η, with f(at) = 1.

    A subclass gives the factor in `_factor`, nan if there is not enough evidence: the last factor then holds. The size
    of the current batch counts, also if it is smaller than decided at the end of an epoch.
    """

    def _begin(self, rate: float, plan: Plan) -> Altered:
        return Altered(rate, own=ScaledState(self.at or 0, 1.0))

    def _alter(self, rate: float, now: StepContext, own: Any) -> Altered:
        at = own.at or now.batch_size
        factor = self._factor(now, at)
        if not 0 < factor < math.inf:
            why = f"no evidence for a factor: {own.factor:.3g} times the rate for a batch of {at}"
            return Altered(rate * own.factor, why, own=ScaledState(at, own.factor), code="not-measured")
        why = f"{factor:.3g} times the rate for a batch of {at}, for {now.batch_size} samples"
        return Altered(rate * factor, "" if factor == 1 else why, own=ScaledState(at, factor))

    @abstractmethod
    def _factor(self, now: StepContext, at: int) -> float:
        """f(b), b the samples of the current batch."""
