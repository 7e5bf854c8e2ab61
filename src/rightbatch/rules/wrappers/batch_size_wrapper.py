"""Batch-size rules around a rule: what bounds, hysteresis, dwell, snapping, memory caps and ramps have in common."""

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
    """What a rule around a rule remembers.

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
    """Where a run stands when a size is altered.

    Args:
        train_samples: N.
        samples: samples consumed before the first batch that the decision is about.
        step: steps taken so far.
        held: the wrapper's state so far; None when the run starts.
    """

    train_samples: int
    samples: int = 0
    step: int = 0
    held: BatchSizeWrapperState | None = None


@dataclass(frozen=True, slots=True)
class BatchSizeWrapper(ABC):
    """A rule that alters what another rule, the one within, decides.

    The rule within is shown the size it last wanted, not the one decided in its place, and goes on as if it had been
    obeyed. What it last wanted counts until it wants something else: once a wrapper lets go, the size moves there.
    Limits hold in any order of wrapping: what one wrapper makes of a size is kept within the limits of all wrappers
    inside it, and within the data.

    A subclass says in `_alter` what it makes of a size, and in `_own_limits` between which sizes it holds all others.

    Args:
        rule: the rule within, or its text or number.

    Raises:
        InputError: `rule` is no rule, or the limits of two wrappers exclude each other.
    """

    rule: BatchSizeRule | str | int = UNWRAPPED

    read: ClassVar[Callable[[Any], BatchSizeRule]]  # set by the registry of rules, which imports this module

    def __post_init__(self) -> None:
        """Build the rule within from its text."""
        object.__setattr__(self, "rule", BatchSizeWrapper.read(self.rule))
        least, most = self._limits()
        if most is not None and most < least:
            raise InputError(
                f"{type(self).__name__} and the rules within it allow at least {least} and at most {most} samples, "
                "which no batch size is: widen one of the limits."
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
        """Alter the first batch of the rule within."""
        inner, inner_state = self.within.start(plan)
        wanted = inner.batch_size or 1
        batch_size, why = self._alter(wanted, WrapContext(plan.train_samples))
        batch_size = self._within_limits(batch_size, plan.train_samples)
        # The first size holds from step 0 on; what a rule decides at a step that it may not enlarge, from the next.
        decided_step = 0 if self.enlarges_current else -1
        return _account(inner, wanted, batch_size, why), BatchSizeWrapperState(
            inner_state, wanted, batch_size, decided_step
        )

    def decide(self, now: StepContext, state: BatchSizeWrapperState) -> tuple[Decision, BatchSizeWrapperState]:
        """Alter what the rule within decides."""
        inner, inner_state = self.within.decide(replace(now, wanted=state.wanted), state.inner)
        wanted = state.wanted if inner.batch_size is None else inner.batch_size
        # The first batch that the decision is about: the current one where it can still be enlarged.
        samples = now.samples if self.enlarges_current else now.samples + now.batch_size
        batch_size, why = self._alter(wanted, WrapContext(now.train_samples, samples, now.step, state))
        batch_size = self._within_limits(batch_size, now.train_samples)
        if batch_size == state.batch_size:
            decision = inner if inner.batch_size is None else _account(inner, wanted, batch_size, why)
            return decision, replace(state, inner=inner_state, wanted=wanted)
        return _account(inner, wanted, batch_size, why), BatchSizeWrapperState(
            inner_state, wanted, batch_size, now.step, samples
        )

    @abstractmethod
    def _alter(self, wanted: int, place: WrapContext) -> tuple[int, str]:
        """What becomes of the size that the rule within wants, and why if it is altered."""

    def _own_limits(self) -> tuple[int, int | None]:
        return 1, None

    def _limits(self) -> tuple[int, int | None]:
        """The least and most that this wrapper and all within it allow."""
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


def _account(inner: Decision, wanted: int, batch_size: int, why: str) -> Decision:
    """The decision of the rule within with another size, saying so."""
    if inner.action is not None:
        return replace(inner, batch_size=batch_size)
    if batch_size == wanted:
        reason = inner.reason if inner.batch_size is not None else f"{wanted} samples, wanted since earlier"
        return replace(inner, batch_size=batch_size, reason=reason)
    reason = f"{batch_size} samples where {wanted} are wanted: {why or 'within the limits'}"
    if inner.batch_size is not None:
        reason += f" ({inner.reason})"
    return replace(inner, batch_size=batch_size, reason=reason, evidence={**inner.evidence, "wanted": float(wanted)})
