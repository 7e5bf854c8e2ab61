"""Every registered lr rule, and that of every recipe, in the conformance suite."""

import pytest

from rightbatch.decision import LRRule
from rightbatch.rule_text import write_rule
from rightbatch.rules.lr import LR_RULES, lr_rule
from rightbatch.rules.recipes import RECIPES, AdaBatch, DontDecay, GeoDamp, Interpolation, Seesaw
from rightbatch.testing import CHECKS, check

RECIPE_ROWS = [
    AdaBatch(8, every_epochs=1),
    DontDecay(4, milestones=(1, 2, 4), lr=0.1),
    Seesaw(8),
    GeoDamp(8, every_samples=150, max_size=50),
    Interpolation(2.0, 1.0),
]
RULES: list[LRRule] = [*(lr_rule(name) for name in LR_RULES), *(recipe.lr_rule for recipe in RECIPE_ROWS)]
OVER = {"sde": "AdamW", "beta2-half-life": "AdamW"}  # the rules that need Adam; the others are tried over SGD


def test_every_recipe_has_a_row() -> None:
    assert {recipe.name for recipe in RECIPE_ROWS} == set(RECIPES)


@pytest.mark.parametrize("rule", RULES, ids=write_rule)
@pytest.mark.parametrize("name", CHECKS)
def test_conforms(rule: LRRule, name: str) -> None:
    check(rule, name, OVER.get(rule.name, "SGD"))
