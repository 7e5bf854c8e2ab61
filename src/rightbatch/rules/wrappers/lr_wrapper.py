"""Step rules around a step rule: what scaling with the batch, warm-up and AdaScale have in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, cast

from ...decision import NO_EVIDENCE, Action, Decision, LRRule, Needs, Plan, Search, Stateless, StepContext
from ...errors import InputError
from ..lr.constant import Constant

UNWRAPPED = Constant()


@dataclass(frozen=True, slots=True)
class LRWrapperState:
    """What a step rule around a step rule remembers.

    Args:
        inner: the state of the rule within.
        lr: the rate that rule last wanted; before it wanted one, the optimizer's own.
        own: the state of the wrapper itself, a dataclass of the same class from the start on.
    """

    inner: Any
    lr: float
    own: Any


@dataclass(frozen=True, slots=True)
class Altered:
    """What a wrapper makes of a rate.

    Args:
        lr: the rate to be used.
        why: what was done to it, "" if nothing; a clause, to stand before the reason of the rule within.
        settings: settings of the optimizer, over those of the rule within.
        evidence: numbers, beside those of the rule within.
        own: the wrapper's next state.
        action: in place of that of the rule within.
    """

    lr: float
    why: str = ""
    settings: Mapping[str, float] = field(default_factory=lambda: NO_EVIDENCE)
    evidence: Mapping[str, float] = field(default_factory=lambda: NO_EVIDENCE)
    own: Any = field(default_factory=Stateless)
    action: Action | None = None


@dataclass(frozen=True, slots=True)
class LRWrapper(ABC):
    """A step rule that alters what another step rule, the one within, decides.

    The rule within is shown the rate it last wanted, not the one used in its place, and goes on as if it had been
    obeyed. A rate counts until the rule within wants another; a rule that leaves the optimizer's own rate alone counts
    as one that wants the rate the optimizer had at the start.

    A subclass says in `_begin` and `_alter` what it makes of a rate, and in `_planned` and `_shown` what else the rule
    within is to see differently.

    Args:
        rule: the rule within, or its text or number; by default, and with None, the optimizer's own rate.

    Raises:
        InputError: `rule` is no rule; or, when a run starts, there is no rate from anywhere.
    """

    rule: LRRule | str | float | None = UNWRAPPED

    read: ClassVar[Callable[[Any], LRRule]]  # set by the registry of rules, which imports this module

    def __post_init__(self) -> None:
        """Build the rule within from its text."""
        object.__setattr__(self, "rule", LRWrapper.read(self.rule))

    @property
    def within(self) -> LRRule:
        """The rule within, resolved."""
        return cast(LRRule, self.rule)  # isinstance would take tens of microseconds, at every step

    @property
    def needs(self) -> Needs:
        """What the rule within needs."""
        return self.within.needs

    @property
    def searches(self) -> bool:
        """Whether the rule within searches."""
        return self.within.searches

    @property
    def averages(self) -> bool:
        """Whether the rule within averages."""
        return self.within.averages

    @property
    def guards(self) -> bool:
        """Whether the rule within guards."""
        return self.within.guards

    def start(self, plan: Plan) -> tuple[Decision, LRWrapperState]:
        """Alter the first rate of the rule within."""
        inner, inner_state = self.within.start(self._planned(plan))
        rate = float(plan.lr if inner.lr is None else inner.lr)
        if not rate > 0:
            who = type(self).__name__
            raise InputError(
                f"{who} has a learning rate of {rate:g} to alter: give the rule within it, or the optimizer, one above "
                "0."
            )
        altered = self._begin(rate, plan)
        return _account(inner, altered), LRWrapperState(inner_state, rate, altered.own)

    def decide(self, now: StepContext, state: LRWrapperState) -> Search:
        """Alter what the rule within decides."""
        shown = replace(self._shown(now, state.own), lr=state.lr)
        inner, inner_state = yield from self.within.decide(shown, state.inner)
        rate = state.lr if inner.lr is None else inner.lr
        altered = self._alter(rate, now, state.own)
        return _account(inner, altered), LRWrapperState(inner_state, rate, altered.own)

    def _begin(self, rate: float, plan: Plan) -> Altered:
        """What becomes of the rate when a run starts, before a batch is known."""
        return Altered(rate)

    @abstractmethod
    def _alter(self, rate: float, now: StepContext, own: Any) -> Altered:
        """What becomes of the rate for the current batch."""

    def _planned(self, plan: Plan) -> Plan:
        """The plan as the rule within is to see it."""
        return plan

    def _shown(self, now: StepContext, own: Any) -> StepContext:
        """The situation as the rule within is to see it, its own rate aside."""
        return now


def _account(inner: Decision, altered: Altered) -> Decision:
    """The decision of the rule within with another rate, saying so."""
    reason = inner.reason
    if altered.why:
        reason = f"{altered.why} ({inner.reason})" if inner.reason else altered.why
    return replace(
        inner,
        lr=altered.lr,
        reason=reason,
        evidence={**inner.evidence, **altered.evidence},
        action=altered.action or inner.action,
        settings={**inner.settings, **altered.settings},
    )
