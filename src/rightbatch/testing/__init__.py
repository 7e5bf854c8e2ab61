"""The conformance suite for rules, built-in or your own.

    import pytest
    from rightbatch.testing import CHECKS, check

    @pytest.mark.parametrize("name", CHECKS)
    def test_my_rule(name):
        check(MyRule(), name)

`check_rule(MyRule())` runs all of them. Nothing here needs pytest: a check that fails raises `ConformanceError`, an
AssertionError that says what the rule did where.
"""

from .conformance import CHECKS, check, check_rule, ignores_the_loss
from .subject import ConformanceError

__all__ = ["CHECKS", "ConformanceError", "check", "check_rule", "ignores_the_loss"]
