"""Every rule names the paper it comes from, or None for our own; the codes of decisions are documented."""

import re
from pathlib import Path
from typing import Any

import pytest

import rightbatch
from rightbatch.citation import Citation
from rightbatch.rules.batch_size import BATCH_SIZE_RULES
from rightbatch.rules.lr import LR_RULES
from rightbatch.rules.lr.range_test import RangeTest
from rightbatch.rules.recipes import RECIPES

RULES: list[Any] = [*BATCH_SIZE_RULES.values(), *LR_RULES.values(), RangeTest]
SOURCE = Path(rightbatch.__file__).parent / "rules"
DOCS = Path(__file__).resolve().parents[2] / "docs" / "rules.md"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_has_a_citation_or_none_of_its_own(rule: Any) -> None:
    found = vars(rule)["reference"]
    if found is None:
        assert "Reference:" not in (rule.__doc__ or "")
        return
    assert isinstance(found, Citation)
    assert 1900 <= found.year <= 2030 and found.authors and found.title
    assert all(re.fullmatch(r"et al\.|(\w\.[- ]?)+ .+", author) for author in found.authors), found.authors


def test_a_citation_in_words() -> None:
    assert str(RECIPES["ada-batch"].reference) == (  # type: ignore[attr-defined]
        "A. Devarakonda, M. Naumov, M. Garland, AdaBatch: Adaptive Batch Sizes for Training Deep Neural Networks "
        "(2017, arXiv 1712.02029), section 4"
    )
    assert str(RECIPES["seesaw"].reference).startswith("A. Meterez et al., Seesaw")  # type: ignore[attr-defined]


def test_the_page_lists_the_codes() -> None:
    """That every decision with a reason has a code is a check of the conformance suite."""
    text = "".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))
    codes = set(re.findall(r'\bcode(?:=|, (?:reason|why) = )"([^"]+)"', text))
    listed = DOCS.read_text(encoding="utf-8").partition("## Codes")[2].partition("\n## ")[0]
    assert codes and codes <= set(re.findall(r"`([a-z][a-z0-9-]*)`", listed))
