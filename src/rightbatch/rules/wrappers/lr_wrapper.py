"""The base of lr rules around another lr rule: scaling with the batch, warm-up, AdaScale."""

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
    """The state of an lr rule around an lr rule.

    Args:
        inner: the state of the rule within.
        lr: the rate that rule last wanted; at first, the optimizer's own.
        own: the state of the wrapper itself, a dataclass of the same class throughout.
    """

    inner: Any
    lr: float
    own: Any


@dataclass(frozen=True, slots=True)
class Altered:
    """The rate that a wrapper sets in place of another.

    Args:
        lr: the rate to use.
        why: what changed, "" if nothing; a clause that precedes the reason of the rule within.
        settings: settings of the optimizer, which override those of the rule within.
        evidence: numbers, in addition to those of the rule within.
        own: the wrapper's next state.
        action: in place of that of the rule within.
        code: of the decision; "" is the wrapper's name.
    """

    lr: float
    why: str = ""
    settings: Mapping[str, float] = field(default_factory=lambda: NO_EVIDENCE)
    evidence: Mapping[str, float] = field(default_factory=lambda: NO_EVIDENCE)
    own: Any = field(default_factory=Stateless)
    action: Action | None = None
    code: str = ""


@dataclass(frozen=True, slots=True)
class LRWrapper(ABC):
    """An lr rule that changes the decisions of another lr rule, the one within.

    The rule within sees the rate it last wanted, not the one used in its place. A rate counts until the rule within
    wants another; a rule that leaves the optimizer's own rate unchanged counts as one that wants the rate at the start.

    A subclass changes the rate in `_begin` and `_alter`, and in `_planned` and `_shown` what else the rule within sees.

    Args:
        rule: the rule within, or its text or number; by default, and with None, the optimizer's own rate.

    Raises:
        InputError: `rule` is no rule; when a run starts, there is no rate.
    """

    rule: LRRule | str | float | None = UNWRAPPED

    read: ClassVar[Callable[[Any], LRRule]]  # set by the registry of rules, which imports this module
    name: ClassVar[str]

    def __post_init__(self) -> None:
        """Build the rule within from its text."""
        object.__setattr__(self, "rule", LRWrapper.read(self.rule))

    @property
    def within(self) -> LRRule:
        """The rule within, resolved."""
        return cast(LRRule, self.rule)  # isinstance would take tens of microseconds, at every step

    def require_rate_within(self) -> None:
        """Refuse a rule within that computes the rate for each batch itself.

        Raises:
            InputError: it searches or guards.
        """
        if self.within.searches or self.within.guards:
            raise InputError(
                f"{type(self).__name__} scales a learning rate, but '{self.within.name}' computes it for each batch: "
                "give a number or a schedule, or use that rule alone."
            )

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
        """Change the first rate of the rule within."""
        inner, inner_state = self.within.start(self._planned(plan))
        rate = float(plan.lr if inner.lr is None else inner.lr)
        if not rate > 0:
            raise InputError(
                f"{type(self).__name__} has a learning rate of {rate:g} to scale: give the rule within, or the "
                "optimizer, one above 0."
            )
        altered = self._begin(rate, plan)
        return self._account(inner, altered), LRWrapperState(inner_state, rate, altered.own)

    def decide(self, now: StepContext, state: LRWrapperState) -> Search:
        """Change the decision of the rule within."""
        shown = replace(self._shown(now, state.own), lr=state.lr)
        inner, inner_state = yield from self.within.decide(shown, state.inner)
        rate = state.lr if inner.lr is None else inner.lr
        altered = self._alter(rate, now, state.own)
        return self._account(inner, altered), LRWrapperState(inner_state, rate, altered.own)

    def _account(self, inner: Decision, altered: Altered) -> Decision:
        """The decision of the rule within with another rate, and why."""
        reason = inner.reason
        if altered.why:
            reason = f"{altered.why} ({inner.reason})" if inner.reason else altered.why
        return replace(
            inner,
            lr=altered.lr,
            code=altered.code or (self.name if altered.why else inner.code),
            reason=reason,
            evidence={**inner.evidence, **altered.evidence},
            action=altered.action or inner.action,
            settings={**inner.settings, **altered.settings},
        )

    def _begin(self, rate: float, plan: Plan) -> Altered:
        """The rate when a run starts, before a batch is known."""
        return Altered(rate)

    @abstractmethod
    def _alter(self, rate: float, now: StepContext, own: Any) -> Altered:
        """The rate for the current batch."""

    def _planned(self, plan: Plan) -> Plan:
        """The plan that the rule within sees."""
        return plan

    def _shown(self, now: StepContext, own: Any) -> StepContext:
        """The context that the rule within sees, except for its own rate."""
        return now
