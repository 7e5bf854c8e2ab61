"""The registered rules in words, read from the rules: what each does, what it measures and its paper."""

import inspect
from dataclasses import dataclass
from textwrap import fill
from typing import Any

from ..decision import BatchSizeRule, LRRule, Needs
from .batch_size import BATCH_SIZE_RULES
from .lr import LR_RULES
from .lr.range_test import RangeTest
from .recipes import RECIPES
from .wrappers.batch_size_wrapper import BatchSizeWrapper
from .wrappers.lr_wrapper import LRWrapper

WIDTH = 112
INDENT = 24

MEASURED = {
    Needs.NOISE: "the gradient noise, as often as its budget allows (by default 3 % of the time)",
    Needs.EVERY_BATCH: "the gradient noise of every batch, at every step",
    Needs.PROJECTIONS: "its part along the gradient",
    Needs.TIME: "the seconds of a step, at no cost except an occasional batch in pieces",
    Needs.DISTANCE: "the distance from the start, for one more copy of the parameters",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A rule in words.

    Args:
        name: as it is written.
        summary: what it does, one sentence.
        measures: what must be measured for it, and at what cost; "" for what is no rule by itself.
        paper: authors, title and place; "" if there is none.
        pairing: what it is used with, beyond any rule for the other quantity; "" if nothing.
    """

    name: str
    summary: str
    measures: str = ""
    paper: str = ""
    pairing: str = ""

    def __str__(self) -> str:
        parts = {"": self.summary, "with: ": self.pairing, "measures: ": self.measures, "from: ": self.paper}
        blank = " " * INDENT
        lines = [
            fill(title + part, WIDTH, initial_indent=blank, subsequent_indent=blank)
            for title, part in parts.items()
            if part
        ]
        text = "\n".join(lines)
        name = f"  {self.name}  "
        return f"{name:<{INDENT}}" + text[INDENT:] if len(name) <= INDENT else f"{name.rstrip()}\n{text}"

    @property
    def line(self) -> str:
        """The summary without its full stop, and the pairing."""
        summary = self.summary.rstrip(".")
        return f"{summary} ({self.pairing})" if self.pairing else summary


def catalogue() -> dict[str, list[Entry]]:
    """All registered rules, by what they decide ("batch-size", "lr"), and what is a part of some ("part")."""
    test = Entry(
        RangeTest.name,
        _summary(RangeTest),
        paper=str(RangeTest.reference or ""),
        pairing="inside averaged-distance and rightbatch.find_lr",
    )
    return {
        "batch-size": [_entry(rule) for rule in BATCH_SIZE_RULES.values()],
        "lr": [_entry(rule) for rule in LR_RULES.values()],
        "part": [test],
    }


def _entry(rule: type[BatchSizeRule] | type[LRRule]) -> Entry:
    paper = getattr(rule, "reference", None)
    return Entry(rule.name, _summary(rule), _measures(rule), str(paper or ""), _pairing(rule))


def _summary(described: type[Any]) -> str:
    return " ".join((inspect.getdoc(described) or "").partition("\n\n")[0].split())


def _pairing(rule: Any) -> str:
    if rule.name in RECIPES and RECIPES[rule.name] is rule:
        return "a recipe, sets lr too"
    if issubclass(rule, BatchSizeWrapper):
        return "around any batch-size rule"
    if issubclass(rule, LRWrapper):
        return "around any lr rule"
    if getattr(rule, "searches", False) is True:
        return "SGD only"
    return ""


def _measures(rule: Any) -> str:
    if issubclass(rule, BatchSizeWrapper):
        return "as the rule within"
    own = rule() if issubclass(rule, LRWrapper) else rule  # around the optimizer's own rate, which measures nothing
    needs = own.needs
    if Needs.EVERY_BATCH in needs:
        needs &= ~Needs.NOISE  # the smoothed noise then costs nothing more
    found = [text for need, text in MEASURED.items() if need in needs]
    if getattr(own, "searches", False) is True:
        found.append("the loss of the batch at trial steps, a forward pass each")
    if getattr(own, "enlarges_current", False) is True:
        found.append("batches that grow before their step")
    if getattr(own, "averages", False) is True:
        found.append("the average of the iterates, for one more copy of the parameters")
    if issubclass(rule, LRWrapper):
        found.append("as the rule within")
    return "; ".join(found) or "nothing"
