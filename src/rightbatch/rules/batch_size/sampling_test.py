"""What the tests have in common that ask whether a gradient stands out of its noise, and else grow the next batch."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from ...decision import Decision, Needs, Plan, StepContext
from ...measurements import Measurement
from ...ranges import require_number, require_whole

UNMEASURED = Decision(reason="hold: of this batch no gradient noise was measured, or its gradient is zero")
WHOLE = Decision(reason="hold: the batch is all the data, its gradient has no noise")
PASSES = Decision(reason="hold: the gradient stands out of its noise")
CAPPED = Decision(reason="hold: the gradient is noisy, but the batch may not grow any more")


@dataclass(frozen=True, slots=True)
class SamplingState:
    """The batch size carried on."""

    batch_size: int


class Condition(NamedTuple):
    """One inequality of a test: `noise` of one sample, divided by the batch size, may be at most `allowed`."""

    noise: float
    allowed: float

    def least_samples(self, population: int | None) -> float:
        """The least b with noise/b · (N - b)/(N - 1) <= allowed; without a population N that factor is 1.

        Solved for b: noise·N/(noise + allowed·(N - 1)), which is at most N.
        """
        if self.noise <= 0:
            return 1.0
        if population is None:
            return self.noise / self.allowed if self.allowed > 0 else math.inf
        return population / (1 + self.allowed / self.noise * (population - 1))


@dataclass(frozen=True, slots=True)
class SamplingTest(ABC):
    """After each batch ask whether its noise is as small as allowed; if not, the next one is as large as needed.

    The size is carried on and never falls. A subclass gives the inequalities in `_conditions`; all must hold.

    Args:
        theta: the noise allowed, relative to the signal; what exactly, the subclass says.
        initial: size of the first batch.
        max_size: largest batch; None is all the data.

    Raises:
        InputError: a setting out of its range.
    """

    theta: float = 0.9
    initial: int = 32
    max_size: int | None = None

    needs: ClassVar[Needs] = Needs.EVERY_BATCH
    enlarges_current: ClassVar[bool] = False
    finite_population: ClassVar[bool] = True  # samples drawn without replacement from N are noisier by (N-b)/(N-1)

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        who = type(self).__name__
        require_number(f"{who}.theta", self.theta, above=0)
        require_whole(f"{who}.initial", self.initial, least=2)
        if self.max_size is not None:
            require_whole(f"{who}.max_size", self.max_size, least=2)

    def start(self, plan: Plan) -> tuple[Decision, SamplingState]:
        """Decide the first batch."""
        batch_size = min(int(self.initial), self._cap(plan.train_samples))
        reason = f"start with {batch_size} samples and grow where the gradient is lost in noise"
        return Decision(batch_size=batch_size, reason=reason), SamplingState(batch_size)

    def decide(self, now: StepContext, state: SamplingState) -> tuple[Decision, SamplingState]:
        """Hold, or grow to the size at which the test would have passed."""
        if now.batch_size >= now.train_samples:
            return WHOLE, state
        population = now.train_samples if self.finite_population else None
        conditions = [(test.least_samples(population), test) for test in self._conditions(now)]
        if not conditions:
            return UNMEASURED, state
        needed, (noise, allowed) = max(conditions)
        if needed <= state.batch_size:
            return PASSES, state
        cap = self._cap(now.train_samples)
        batch_size = min(cap, self._rounded(needed)) if needed < cap else cap
        if batch_size <= state.batch_size:
            return CAPPED, state
        reason = (
            f"{now.batch_size} samples leave a noise of {noise / now.batch_size:.3g} where {allowed:.3g} is allowed: "
            f"{batch_size} samples"
        )
        evidence = {"noise": noise, "allowed": allowed, "needed": needed}
        return Decision(batch_size=batch_size, reason=reason, evidence=evidence), SamplingState(batch_size)

    @abstractmethod
    def _conditions(self, now: StepContext) -> list[Condition]:
        """The inequalities asked of the batch; none where it was not measured."""

    def _rounded(self, needed: float) -> int:
        """The least size allowed that is at least `needed`."""
        return math.ceil(needed)

    def _cap(self, train_samples: int) -> int:
        return train_samples if self.max_size is None else min(int(self.max_size), train_samples)


def measured(now: StepContext) -> Measurement | None:
    """The measurement of the current batch, if its gradient and its noise are finite and the gradient is not zero."""
    found = now.measurement
    usable = found is not None and math.isfinite(found.variance) and 0 < found.gradient_norm2 < math.inf
    return found if usable else None
