"""The rule under test, of either kind, behind one interface, and the error if it does not conform."""

import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any, NamedTuple, cast

from ..decision import BatchSizeRule, Decision, LRRule, Outcome, Plan, StepContext, Trial
from ..errors import InputError
from ..loop.decide import restored

CODE = re.compile(r"[a-z][a-z0-9-]*")
MOST_TRIALS = 61  # of one step: thirty halvings and thirty doublings
Respond = Callable[[Trial], Outcome]


class ConformanceError(AssertionError):
    """A rule violates the contract of rules."""


class Answer(NamedTuple):
    """The answer of a rule: its decision, its next state, and the trial steps it requested."""

    decision: Decision
    state: Any
    trials: tuple[tuple[Trial, Outcome], ...] = ()


def same(a: object, b: object) -> bool:
    """Whether two answers or states are equal; nan, which differs from itself, is compared as text."""
    return a == b or repr(a) == repr(b)


@dataclass(frozen=True, slots=True)
class RuleSubject:
    """A rule for the batch size or the learning rate.

    Args:
        rule: the rule.
        sizes: whether it is a batch-size rule.

    Raises:
        InputError: it is neither; the message says what a rule has.
    """

    rule: BatchSizeRule | LRRule
    sizes: bool = field(init=False)

    def __post_init__(self) -> None:
        """Raise unless it is a rule; its kind is determined once, since the check is slow."""
        object.__setattr__(self, "sizes", isinstance(self.rule, BatchSizeRule))
        if isinstance(self.rule, type) or not (self.sizes or isinstance(self.rule, LRRule)):
            raise InputError(
                f"{self.rule!r} is not a rule: a batch-size rule has name, needs, enlarges_current, start and decide; "
                "a learning-rate rule has name, needs, searches, averages, guards, start and decide."
            )

    def require(self, condition: bool, complaint: str) -> None:
        """Raise ConformanceError unless `condition` holds."""
        if not condition:
            raise ConformanceError(f"{self.rule!r} {complaint}")

    def start(self, plan: Plan) -> Answer:
        """Request the first decision and check it."""
        decision, state = self.rule.start(plan)
        self.require(not self.sizes or decision.batch_size is not None, "starts without a batch size")
        return self._sensible(Answer(decision, state), plan.train_samples, "at the start")

    def decide(self, now: StepContext, state: Any, respond: Respond) -> Answer:
        """Request the next decision, answer its trial steps, and check it."""
        where = f"at step {now.step}"
        if self.sizes:
            decision, state = cast(BatchSizeRule, self.rule).decide(now, state)
            return self._sensible(Answer(decision, state), now.train_samples, where)
        rule = cast(LRRule, self.rule)
        search, trials = rule.decide(now, state), list[tuple[Trial, Outcome]]()
        try:
            trial = next(search)
            while True:
                self.require(rule.searches, f"tries a step {where}, but `searches` is False")
                step = trial.step
                self.require(0 < step < math.inf, f"tries the step {step!r} {where}: it must be positive")
                trials.append((trial, respond(trial)))
                self.require(len(trials) <= MOST_TRIALS, f"requests more than {MOST_TRIALS} trial steps {where}")
                trial = search.send(trials[-1][1])
        except StopIteration as end:
            self.require(isinstance(end.value, tuple), f"returns {end.value!r} {where}, not (Decision, state)")
            decision, state = end.value
            return self._sensible(Answer(decision, state, tuple(trials)), now.train_samples, where)

    def saved_and_restored(self, state: Any) -> Any:
        """The state after a checkpoint, which must be the same."""
        again = restored(state, asdict(state))
        self.require(same(again, state), f"has a state that changes in a checkpoint: {state!r} becomes {again!r}")
        return again

    def _sensible(self, answer: Answer, train_samples: int, where: str) -> Answer:
        decision, state = answer.decision, answer.state
        self.require(isinstance(decision, Decision), f"returns {decision!r} {where}, which is not a Decision")
        self.require(is_dataclass(state), f"has the state {state!r} {where}: it must be a frozen dataclass")
        samples, rate = decision.batch_size, decision.lr
        if self.sizes:
            whole = samples is None or (type(samples) is int and 1 <= samples <= train_samples)
            self.require(
                whole, f"returns the batch size {samples!r} {where}: it must be an int from 1 to {train_samples}"
            )
            self.require(rate is None, f"sets a learning rate {where}, which only a learning-rate rule may do")
            self.require(bool(decision.reason), f"gives no reason {where}")
            self.require(
                decision.action in (None, "stop"),
                f"returns the action {decision.action!r} {where}; only 'stop' is allowed",
            )
        else:
            self.require(samples is None, f"sets a batch size {where}, which only a batch-size rule may do")
            self.require(rate is None or 0 < rate < math.inf, f"sets the learning rate {rate!r} {where}")
            acts = decision.action is None or cast(LRRule, self.rule).guards
            self.require(acts, f"returns the action {decision.action!r} {where}, but `guards` is False")
        coded = not decision.reason or CODE.fullmatch(decision.code)
        self.require(bool(coded), f"gives the code {decision.code!r} {where}: a code is lower case with hyphens")
        finite = all(math.isfinite(value) for value in decision.settings.values())
        self.require(finite, f"sets {dict(decision.settings)} {where}: settings must be finite")
        return answer
