"""What there is to say of each rule in a few lines, read from the rule itself: what it does, measures and rests on."""

import inspect
import re
import sys
from dataclasses import dataclass
from textwrap import fill
from typing import Any

from ..decision import BatchSizeRule, LRRule, Needs
from .batch_size import BATCH_SIZE_RULES
from .lr import LR_RULES
from .wrappers.batch_size_wrapper import BatchSizeWrapper
from .wrappers.lr_wrapper import LRWrapper

WIDTH = 112
INDENT = 24
MOST_AUTHORS = 3
TITLE = re.compile(r'(?P<before>.*?)"(?P<title>[^"]+)"(?:\s*(?P<where>\((?:[^()"]|"[^"]*")*\)))?', re.DOTALL)
NAME = re.compile(r"(?:\b[A-Z][\w]*\.[- ]?)+\s?(?:(?:de|van|von|El)\s)?\w[\w’'-]+")

MEASURED = {
    Needs.NOISE: "the gradient noise, as often as its budget allows (by default 3 % of the time)",
    Needs.EVERY_BATCH: "the gradient noise of every batch, at every step",
    Needs.PROJECTIONS: "its part along the gradient",
    Needs.TIME: "the seconds of a step, which cost nothing but one batch in pieces now and then",
    Needs.DISTANCE: "the distance from the start, for one more copy of the parameters",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A rule in words.

    Args:
        name: as it is written.
        summary: what it does, one sentence.
        measures: what must be measured for it, and what that costs.
        paper: authors, title and place; "" where there is none.
    """

    name: str
    summary: str
    measures: str
    paper: str

    def __str__(self) -> str:
        lines = [self.summary, f"measures: {self.measures}", *([f"from: {self.paper}"] if self.paper else [])]
        blank = " " * INDENT
        text = "\n".join(fill(line, WIDTH, initial_indent=blank, subsequent_indent=blank) for line in lines)
        name = f"  {self.name} "
        return f"{name:<{INDENT}}" + text[INDENT:] if len(name) <= INDENT else f"{name}\n{text}"


def catalogue() -> dict[str, list[Entry]]:
    """All registered rules, by what they decide: "batch-size" and "lr"."""
    return {
        "batch-size": [_entry(rule) for rule in BATCH_SIZE_RULES.values()],
        "lr": [_entry(rule) for rule in LR_RULES.values()],
    }


def _entry(rule: type[BatchSizeRule] | type[LRRule]) -> Entry:
    paragraphs = inspect.getdoc(rule) or ""
    summary = " ".join(paragraphs.partition("\n\n")[0].split())
    return Entry(rule.name, summary, _measures(rule), _paper(rule))


def _measures(rule: Any) -> str:
    if issubclass(rule, BatchSizeWrapper):
        return "what the rule within does"
    own = rule() if issubclass(rule, LRWrapper) else rule  # around the optimizer's own rate, which measures nothing
    needs = own.needs
    if Needs.EVERY_BATCH in needs:
        needs &= ~Needs.NOISE  # the smoothed noise then comes for nothing
    found = [text for need, text in MEASURED.items() if need in needs]
    if getattr(own, "searches", False) is True:
        found.append("the loss of the batch at trial steps, a forward pass each")
    if getattr(own, "enlarges_current", False) is True:
        found.append("batches that grow before their step is taken")
    if getattr(own, "averages", False) is True:
        found.append("the average of the iterates, for one more copy of the parameters")
    if issubclass(rule, LRWrapper):
        found.append("what the rule within does")
    return "; ".join(found) or "nothing"


def _paper(rule: type[Any]) -> str:
    """The first paper that the rule's text, or its module's, refers to."""
    for text in (inspect.getdoc(rule), sys.modules[rule.__module__].__doc__):
        _, found, reference = (text or "").partition("Reference")
        if found:
            return _cited(" ".join(reference.partition(":")[2].partition("\n\n")[0].split()))
    return ""


def _cited(reference: str) -> str:
    """Authors, title and place of the first paper in a reference; without a title its first sentence."""
    form = TITLE.match(reference)
    if form is None:
        return reference.partition(". ")[0].rstrip(".")
    before = form["before"].strip().rstrip(",")
    authors = NAME.findall(before)
    if len(authors) > MOST_AUTHORS:
        before = before[: before.index(authors[0]) + len(authors[0])] + " et al."
    where = f" {form['where']}" if form["where"] else ""
    return f"{before}, {form['title'].rstrip(',')}{where}"
