"""The base of batch-size rules around another: bounds, hysteresis, holding, rounding, memory caps and ramps."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, cast

from ...decision import BatchSizeRule, Decision, Needs, Plan, StepContext
from ...errors import InputError
from ..batch_size.sweet_spot import SweetSpot

UNWRAPPED = SweetSpot()


@dataclass(frozen=True, slots=True)
class BatchSizeWrapperState:
    """The state of a batch-size rule around another.

    Args:
        inner: the state of the rule within.
        wanted: the size that rule last wanted.
        batch_size: the size decided instead.
        decided_step: the step at which `batch_size` was decided; before the first, -1 or, if that may be enlarged, 0.
        decided_samples: the samples consumed before the first batch of that size.
    """

    inner: Any
    wanted: int
    batch_size: int
    decided_step: int
    decided_samples: int = 0


class WrapContext(NamedTuple):
    """The position of a run when a size is changed.

    Args:
        train_samples: N.
        samples: samples consumed before the first batch that the decision is about.
        step: steps taken so far.
        held: the wrapper's state; None when the run starts.
    """

    train_samples: int
    samples: int = 0
    step: int = 0
    held: BatchSizeWrapperState | None = None


@dataclass(frozen=True, slots=True)
class BatchSizeWrapper(ABC):
    """A batch-size rule that changes the decisions of another rule, the one within.

    The rule within sees the size it last wanted, not the one decided in its place. What it last wanted counts until it
    wants something else: once a wrapper no longer changes the size, it becomes that. Limits hold in any order of
    wrapping: a size is limited by all wrappers inside, and by the data.

    A subclass changes a size in `_alter`, and gives its limits in `_own_limits`.

    Args:
        rule: the rule within, or its text or number.

    Raises:
        InputError: `rule` is no rule, or the limits of two wrappers exclude each other.
    """

    rule: BatchSizeRule | str | int = UNWRAPPED

    read: ClassVar[Callable[[Any], BatchSizeRule]]  # set by the registry of rules, which imports this module
    name: ClassVar[str]

    def __post_init__(self) -> None:
        """Build the rule within from its text."""
        object.__setattr__(self, "rule", BatchSizeWrapper.read(self.rule))
        least, most = self._limits()
        if most is not None and most < least:
            raise InputError(
                f"{type(self).__name__} and the rules within it allow at least {least} and at most {most} samples, "
                "which is impossible: widen one of the limits."
            )

    @property
    def within(self) -> BatchSizeRule:
        """The rule within, resolved."""
        return cast(BatchSizeRule, self.rule)  # isinstance would take tens of microseconds, at every step

    @property
    def needs(self) -> Needs:
        """What the rule within needs."""
        return self.within.needs

    @property
    def enlarges_current(self) -> bool:
        """Whether the rule within enlarges the current batch."""
        return self.within.enlarges_current

    def start(self, plan: Plan) -> tuple[Decision, BatchSizeWrapperState]:
        """Change the first batch size of the rule within."""
        inner, inner_state = self.within.start(plan)
        wanted = inner.batch_size or 1
        batch_size, why = self._alter(wanted, WrapContext(plan.train_samples))
        batch_size = self._within_limits(batch_size, plan.train_samples)
        # The first size holds from step 0 on; a size decided at a step that may not be enlarged, from the next.
        decided_step = 0 if self.enlarges_current else -1
        return self._account(inner, wanted, batch_size, why), BatchSizeWrapperState(
            inner_state, wanted, batch_size, decided_step
        )

    def decide(self, now: StepContext, state: BatchSizeWrapperState) -> tuple[Decision, BatchSizeWrapperState]:
        """Change the decision of the rule within."""
        inner, inner_state = self.within.decide(replace(now, wanted=state.wanted), state.inner)
        wanted = state.wanted if inner.batch_size is None else inner.batch_size
        # The first batch that the decision concerns: the current one if it can still be enlarged.
        samples = now.samples if self.enlarges_current else now.samples + now.batch_size
        batch_size, why = self._alter(wanted, WrapContext(now.train_samples, samples, now.step, state))
        batch_size = self._within_limits(batch_size, now.train_samples)
        if batch_size == state.batch_size:
            decision = inner if inner.batch_size is None else self._account(inner, wanted, batch_size, why)
            return decision, replace(state, inner=inner_state, wanted=wanted)
        return self._account(inner, wanted, batch_size, why), BatchSizeWrapperState(
            inner_state, wanted, batch_size, now.step, samples
        )

    def _account(self, inner: Decision, wanted: int, batch_size: int, why: str) -> Decision:
        """The decision of the rule within with another size, and why."""
        if inner.action is not None:
            return replace(inner, batch_size=batch_size)
        if batch_size == wanted:
            if inner.batch_size is not None:
                return replace(inner, batch_size=batch_size)
            return replace(inner, batch_size=batch_size, code="resumed", reason=f"{wanted} samples, wanted earlier")
        reason = f"{batch_size} samples where {wanted} are wanted: {why or 'within the limits'}"
        if inner.batch_size is not None:
            reason += f" ({inner.reason})"
        evidence = {**inner.evidence, "wanted": float(wanted)}
        return replace(inner, batch_size=batch_size, code=self.name, reason=reason, evidence=evidence)

    @abstractmethod
    def _alter(self, wanted: int, place: WrapContext) -> tuple[int, str]:
        """The size in place of the one that the rule within wants, and why if it differs."""

    def _own_limits(self) -> tuple[int, int | None]:
        return 1, None

    def _limits(self) -> tuple[int, int | None]:
        """The smallest and largest size that this wrapper and all within it allow."""
        least, most = self._own_limits()
        if not isinstance(self.rule, BatchSizeWrapper):
            return least, most
        inner_least, inner_most = self.rule._limits()
        mosts = [limit for limit in (most, inner_most) if limit is not None]
        return max(least, inner_least), min(mosts, default=None)

    def _range(self, train_samples: int) -> tuple[int, int]:
        least, most = self._limits()
        most = train_samples if most is None else min(most, train_samples)
        return min(least, most), most

    def _within_limits(self, batch_size: int, train_samples: int) -> int:
        least, most = self._range(train_samples)
        return min(max(batch_size, least), most)
