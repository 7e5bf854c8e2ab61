"""A rule in real training: the same run without interruption, resumed in the middle, and with micro-batches."""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from ..decision import BatchSizeRule, Decision, LRRule, Needs, Outcome, Plan, Search, StepContext, Trial
from ..loop import AutoBatch
from ..measurements import StepTime
from .problems import TrainedProblem
from .subject import Answer, RuleSubject, same

AnyRule = TypeVar("AnyRule", bound=BatchSizeRule | LRRule)

BATCH = 8  # for learning-rate rules
MICRO_BATCH = 5
MOST_STEPS = 36
TAKEN_UP_AT = 5
EPOCHS = 3
RATE = 0.05
ROUNDING = 1e-6  # relative; sums over micro-batches differ by some 1e-16 at each step
TIMED = StepTime(4e-4, 1e-5, 40.0, 5.0, 5, 4, 64)
MAKE: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=RATE, momentum=0.5),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=RATE / 5),
}


@dataclass
class Tape:
    """The rule's inputs and answers, in order."""

    plan: Plan | None = None
    asked: list[StepContext] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)


@dataclass(frozen=True)
class Taped(Generic[AnyRule]):
    """A rule whose calls are recorded. Step times are constant, so that runs can be compared."""

    rule: AnyRule
    tape: Tape = field(default_factory=Tape, init=False, compare=False)

    @property
    def name(self) -> str:  # of this rule, not of the class
        return self.rule.name

    @property
    def needs(self) -> Needs:
        return self.rule.needs & ~Needs.TIME

    def start(self, plan: Plan) -> tuple[Decision, Any]:
        self.tape.plan = plan
        return self.rule.start(plan)

    def timed(self, now: StepContext) -> StepContext:
        """The rule's context, with a constant step time if it needs one."""
        return replace(now, step_time=TIMED if Needs.TIME in self.rule.needs and now.step > 3 else None)


@dataclass(frozen=True)
class TapedSize(Taped[BatchSizeRule]):
    """A batch-size rule whose calls are recorded."""

    @property
    def enlarges_current(self) -> bool:
        return self.rule.enlarges_current

    def decide(self, now: StepContext, state: Any) -> tuple[Decision, Any]:
        now = self.timed(now)
        decision, state = self.rule.decide(now, state)
        self.tape.asked.append(now)
        self.tape.answers.append(Answer(decision, state))
        return decision, state


@dataclass(frozen=True)
class TapedStep(Taped[LRRule]):
    """A learning-rate rule whose calls are recorded."""

    @property
    def searches(self) -> bool:
        return self.rule.searches

    @property
    def averages(self) -> bool:
        return self.rule.averages

    @property
    def guards(self) -> bool:
        return self.rule.guards

    def decide(self, now: StepContext, state: Any) -> Search:
        now = self.timed(now)
        search, trials = self.rule.decide(now, state), list[tuple[Trial, Outcome]]()
        try:
            trial = next(search)
            while True:
                outcome = yield trial
                trials.append((trial, outcome))
                trial = search.send(outcome)
        except StopIteration as end:
            decision, state = end.value
        self.tape.asked.append(now)
        self.tape.answers.append(Answer(decision, state, tuple(trials)))
        return decision, state


class TapedRun:
    """A training run that records the calls of the rule."""

    def __init__(
        self, subject: RuleSubject, problem: TrainedProblem, optimizer: str, micro_batch: int | None = None
    ) -> None:
        rule = subject.rule
        taped = TapedSize(rule) if isinstance(rule, BatchSizeRule) else TapedStep(rule)
        self.tape = taped.tape
        self.problem = problem
        self.model = problem.make()
        sizes = isinstance(taped, TapedSize)
        needs = taped.needs
        self.auto = AutoBatch(
            self.model,
            MAKE[optimizer](self.model.parameters()),
            problem.data,
            batch_size=taped if sizes else BATCH,
            lr=None if sizes else taped,
            micro_batch=micro_batch,
            epochs=EPOCHS,
            noise="auto(every=2)" if Needs.NOISE in needs and Needs.EVERY_BATCH not in needs else None,
        )
        self.saved: bytes | None = None

    def train(self) -> "TapedRun":
        """Train for the number of steps that the check needs; save a checkpoint once."""
        for x, y in self.auto:
            loss = self.problem.loss(self.model(x), y)
            self.auto.backward(loss)
            if self.auto.step() and self.saved is None and self.auto.steps >= TAKEN_UP_AT:
                self.saved = self._save()
            if self.auto.steps >= MOST_STEPS:
                break
        return self

    def _save(self) -> bytes:
        file = io.BytesIO()
        torch.save({"model": self.model.state_dict(), "auto": self.auto.state_dict()}, file)
        return file.getvalue()

    def load(self, saved: bytes) -> None:
        """Resume from a checkpoint; only plain types and tensors are read."""
        state = torch.load(io.BytesIO(saved), weights_only=True)
        self.model.load_state_dict(state["model"])
        self.auto.load_state_dict(state["auto"])

    def parameters(self) -> Tensor:
        """All parameters, flattened."""
        return torch.cat([parameter.detach().reshape(-1) for parameter in self.model.parameters()])


def check_live(subject: RuleSubject, problem: TrainedProblem, optimizer: str) -> None:
    """Check the rule on a problem.

    A run resumed from a checkpoint must continue bit for bit; a run with micro-batches must be equal up to rounding;
    and a copy of the rule must give the same answers to the same questions.

    Raises:
        ConformanceError: it does not.
    """
    whole = TapedRun(subject, problem, optimizer).train()
    _asked_again(subject, whole.tape)
    if whole.saved is not None:
        taken_up = TapedRun(subject, problem, optimizer)
        taken_up.load(whole.saved)
        taken_up.train()
        equal = torch.equal(taken_up.parameters(), whole.parameters())
        subject.require(equal, "continues differently after a checkpoint: all its memory must be in its state")
        later = whole.tape.answers[len(whole.tape.answers) - len(taken_up.tape.answers) :]
        subject.require(same(later, taken_up.tape.answers), "decides differently after a checkpoint")
    cut = TapedRun(subject, problem, optimizer, MICRO_BATCH).train()
    sizes = [now.batch_size for now in whole.tape.asked], [now.batch_size for now in cut.tape.asked]
    subject.require(sizes[0] == sizes[1], "takes other batch sizes with micro-batches")
    for one, other in zip(whole.tape.answers, cut.tape.answers, strict=True):
        rates = one.decision.lr, other.decision.lr
        close = rates[0] == rates[1] or (None not in rates and math.isclose(*rates, rel_tol=ROUNDING))  # type: ignore[arg-type]
        subject.require(close, f"sets the learning rate {rates[1]} with micro-batches, and {rates[0]} without")


def _asked_again(subject: RuleSubject, tape: Tape) -> None:
    again = RuleSubject(replace(subject.rule))  # type: ignore[type-var]  # a dataclass: checked before
    assert tape.plan is not None
    state = again.start(tape.plan).state
    for now, answer in zip(tape.asked, tape.answers, strict=True):
        outcomes = dict(answer.trials)

        def respond(trial: Trial, outcomes: dict[Trial, Outcome] = outcomes, now: StepContext = now) -> Outcome:
            subject.require(trial in outcomes, f"tries another step at step {now.step} when asked twice")
            return outcomes[trial]

        found = again.decide(now, state, respond)
        subject.require(same(found, answer), f"decides differently at step {now.step} when asked twice")
        state = found.state
