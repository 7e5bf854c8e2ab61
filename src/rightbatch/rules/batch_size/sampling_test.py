"""The base of the tests that ask whether a gradient exceeds its noise, and otherwise grow the next batch."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from ...decision import Decision, Needs, Plan, StepContext
from ...measurements import Measurement
from ...ranges import require_number
from ..bounds import largest, require_sizes

UNMEASURED = Decision(code="not-measured", reason="hold: no gradient noise was measured, or the gradient is zero")
WHOLE = Decision(code="whole-data", reason="hold: the batch is all the data, its gradient has no noise")
PASSES = Decision(code="passed", reason="hold: the gradient exceeds its noise")
CAPPED = Decision(code="at-limit", reason="hold: the gradient is noisy, but the batch size is at its limit")


@dataclass(frozen=True, slots=True)
class SamplingState:
    """The present batch size."""

    batch_size: int


class Condition(NamedTuple):
    """One inequality of a test: `noise` of one sample, divided by the batch size, may be at most `allowed`."""

    noise: float
    allowed: float

    def least_samples(self, population: int | None) -> float:
        """The smallest b with noise/b · (N - b)/(N - 1) <= allowed; without a population N that factor is 1.

        Solved for b: noise·N/(noise + allowed·(N - 1)), which is at most N.
        """
        if self.noise <= 0:
            return 1.0
        if population is None:
            return self.noise / self.allowed if self.allowed > 0 else math.inf
        return population / (1 + self.allowed / self.noise * (population - 1))


@dataclass(frozen=True, slots=True)
class SamplingTest(ABC):
    """After each batch test whether its noise is as small as allowed; if not, make the next one as large as needed.

    The size never falls. A subclass gives the inequalities in `_conditions`; all must hold.

    Args:
        theta: the noise allowed, relative to the signal; defined by the subclass.
        initial: size of the first batch.
        max_size: largest batch size; None is all the data.

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
        """Check the settings."""
        who = type(self).__name__
        require_number(f"{who}.theta", self.theta, above=0)
        require_sizes(who, self.initial, self.max_size, least=2)

    def start(self, plan: Plan) -> tuple[Decision, SamplingState]:
        """Decide the first batch."""
        batch_size = min(int(self.initial), largest(self.max_size, plan.train_samples))
        reason = f"start with {batch_size} samples and grow while noise exceeds the gradient"
        return Decision(batch_size, code="initial", reason=reason), SamplingState(batch_size)

    def decide(self, now: StepContext, state: SamplingState) -> tuple[Decision, SamplingState]:
        """Hold, or grow to the size at which the test passes."""
        if now.batch_size >= now.train_samples:
            return WHOLE, state
        population = now.train_samples if self.finite_population else None
        conditions = [(test.least_samples(population), test) for test in self._conditions(now)]
        if not conditions:
            return UNMEASURED, state
        needed, (noise, allowed) = max(conditions)
        if needed <= state.batch_size:
            return PASSES, state
        cap = largest(self.max_size, now.train_samples)
        batch_size = min(cap, self._rounded(needed)) if needed < cap else cap
        if batch_size <= state.batch_size:
            return CAPPED, state
        reason = (
            f"{now.batch_size} samples leave a noise of {noise / now.batch_size:.3g} where {allowed:.3g} is allowed: "
            f"{batch_size} samples"
        )
        evidence = {"noise": noise, "allowed": allowed, "needed": needed}
        decision = Decision(batch_size, code="noise-above-signal", reason=reason, evidence=evidence)
        return decision, SamplingState(batch_size)

    @abstractmethod
    def _conditions(self, now: StepContext) -> list[Condition]:
        """The inequalities that the batch must satisfy; none if it was not measured."""

    def _rounded(self, needed: float) -> int:
        """The smallest allowed size of at least `needed`."""
        return math.ceil(needed)


def measured(now: StepContext) -> Measurement | None:
    """The measurement of the current batch, if its gradient and its noise are finite and the gradient is not zero."""
    found = now.measurement
    usable = found is not None and math.isfinite(found.variance) and 0 < found.gradient_norm2 < math.inf
    return found if usable else None
