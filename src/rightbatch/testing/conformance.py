"""The conformance checks that every rule must pass."""

import os
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from functools import partial

from ..decision import BatchSizeRule, LRRule, Needs
from ..errors import InputError
from ..rule_text import read_rule, write_rule
from ..rules.batch_size import BATCH_SIZE_RULES
from ..rules.lr import LR_RULES
from .live import check_live
from .problems import PROBLEMS, logistic
from .situations import CALM, TRACES, lost, parabola, plan
from .subject import Answer, RuleSubject, same
from .watching import nothing_from_outside

Rule = BatchSizeRule | LRRule
DECLARATIONS, LOGISTIC = "declarations", "logistic regression"
CHECKS: tuple[str, ...] = (DECLARATIONS, *TRACES, *PROBLEMS)


def check_rule(rule: Rule, optimizer: str = "SGD", logistic_data: str | os.PathLike[str] | None = None) -> None:
    """Run all checks on a rule; see `check`.

    Args:
        rule: a batch-size rule or a learning-rate rule.
        optimizer: "SGD" or "AdamW".
        logistic_data: path of data for the logistic regression, such as a9a (default: synthetic data).

    Raises:
        ConformanceError: the first thing it does that no rule may do.
        InputError: it is no rule.
    """
    for name in CHECKS:
        check(rule, name, optimizer, logistic_data)


def check(rule: Rule, name: str, optimizer: str = "SGD", logistic_data: str | os.PathLike[str] | None = None) -> None:
    """Run one of `CHECKS` on a rule.

    - "declarations": a frozen dataclass with name and needs, which reads back from its text.
    - a recorded trace ("calm", "pure noise", "nan gradient", ...): batches within 1 and the data, positive finite
      learning rates, a state that a checkpoint holds, the same answers when asked again; no look at the clock, at
      random numbers or at files.
    - a problem ("quadratic", "logistic regression", "network"): trained live, it is the same run when it is taken up
      from its middle (bit for bit), when batches are passed in micro-batches (but for rounding), and when the rule is
      asked the same again.

    Args:
        rule: a batch-size rule or a learning-rate rule.
        name: one of `CHECKS`.
        optimizer: "SGD" or "AdamW".
        logistic_data: path of data for the logistic regression, such as a9a (default: synthetic data).

    Raises:
        ConformanceError: the rule does what no rule may do.
        InputError: it is no rule, or there is no such check.
    """
    subject = RuleSubject(rule)
    if name == DECLARATIONS:
        _declares(subject)
    elif name in TRACES:
        _answers_sensibly(subject, name, optimizer)
    elif name in PROBLEMS:
        problem = PROBLEMS[name]() if name != LOGISTIC else logistic(logistic_data)
        check_live(subject, problem, optimizer)
    else:
        raise InputError(f"Unknown check {name!r}: use one of {', '.join(map(repr, CHECKS))}.")


def ignores_the_loss(rule: Rule, optimizer: str = "SGD") -> None:
    """Check that a rule does not depend on the loss: it must decide the same if every loss is nan.

    Raises:
        ConformanceError: it decides otherwise.
    """
    subject = RuleSubject(rule)
    with_losses, without = (_drive(subject, name, optimizer) for name in ("calm", "nan loss"))
    subject.require(same(with_losses, without), "decides differently if the loss is nan")


def _declares(subject: RuleSubject) -> None:
    rule = subject.rule
    subject.require(is_dataclass(rule), "is not a dataclass whose fields are its hyper-parameters")
    subject.require(isinstance(rule.needs, Needs), f"has needs {rule.needs!r}, which must be a Needs")
    names = ("enlarges_current",) if subject.sizes else ("searches", "averages", "guards")
    for name in names:
        subject.require(isinstance(getattr(rule, name), bool), f"must have a {name} that is True or False")
    for item in fields(rule)[:1]:  # type: ignore[arg-type]  # a dataclass, as found above
        try:
            setattr(rule, item.name, getattr(rule, item.name))
        except AttributeError:
            continue
        subject.require(False, "is mutable: use @dataclass(frozen=True)")
    text, known = write_rule(rule), BATCH_SIZE_RULES if subject.sizes else LR_RULES
    again = read_rule(text, {**known, rule.name: type(rule)}, "rule")
    subject.require(again == rule, f"is written as {text!r}, which is parsed as {again!r}")


def _answers_sensibly(subject: RuleSubject, trace: str, optimizer: str) -> None:
    for respond in (parabola, lost) if not subject.sizes else (parabola,):
        with nothing_from_outside() as met:
            answers = _drive(subject, trace, optimizer, respond)
        subject.require(not met, f"calls {', '.join(met[:3])}: a rule may only use its arguments")
        again = RuleSubject(replace(subject.rule))  # type: ignore[type-var]  # a dataclass
        found = _drive(again, trace, optimizer, respond, checkpoint=True)
        subject.require(same(found, answers), f"decides differently when asked twice ({trace})")


def _drive(
    subject: RuleSubject,
    trace: str,
    optimizer: str,
    respond: Callable[..., object] = parabola,
    checkpoint: bool = False,
) -> list[Answer]:
    """Query the rule along a trace; with `checkpoint` its state is saved and restored before every query."""
    answers = [subject.start(plan(optimizer))]
    for now in TRACES[trace]:
        state = subject.saved_and_restored(answers[-1].state) if checkpoint else answers[-1].state
        answers.append(subject.decide(now, state, partial(respond, now)))  # type: ignore[arg-type]
    assert len(answers) == len(CALM) + 1
    return answers
