"""Every registered step-size rule in the conformance suite: a new rule is tested by being registered."""

import pytest

from rightbatch.rules.lr import LR_RULES, lr_rule
from rightbatch.testing import CHECKS, check

WITH_SETTINGS = {"interpolation": "interpolation(2.0, 1.0)"}  # of the rules that cannot do without
OVER = {"sde": "AdamW", "beta2-half-life": "AdamW"}  # the rules that need Adam; the others are tried over SGD


@pytest.mark.parametrize("rule", LR_RULES)
@pytest.mark.parametrize("name", CHECKS)
def test_conforms(rule: str, name: str) -> None:
    check(lr_rule(WITH_SETTINGS.get(rule, rule)), name, OVER.get(rule, "SGD"))
