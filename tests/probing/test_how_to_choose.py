"""The page on choosing says what the formulas and the rules say."""

import math
import re
from pathlib import Path

import pytest

from rightbatch.probing.choice import relative_time, sweet_spot
from rightbatch.rules.batch_size import BATCH_SIZE_RULES, batch_size_rule
from rightbatch.rules.lr import LR_RULES, lr_rule

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "how-to-choose.md").read_text(encoding="utf-8")


def test_what_a_wrong_batch_costs() -> None:
    rows = re.findall(r"^\| (\d+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", PAGE, flags=re.MULTILINE)
    assert len(rows) == 4
    half = 50.0
    for off, *costs in rows:
        for ratio, cost in zip((1, 16, 256), costs, strict=True):
            best = sweet_spot(ratio * half, half)
            for factor in (float(off), 1 / float(off)):
                found = relative_time(ratio * half, half, factor * best) / relative_time(ratio * half, half, best)
                assert float(cost) == pytest.approx(found, abs=0.0051)


def test_twice_the_best_batch_costs_at_most_an_eighth() -> None:
    for exponent in range(-40, 41):
        noise = math.exp(exponent / 4)
        best = sweet_spot(noise, 1.0)
        assert relative_time(noise, 1.0, 2 * best) <= 1.125 * relative_time(noise, 1.0, best) * (1 + 1e-12)


def test_the_rules_named_exist() -> None:
    named = set(re.findall(r"`([a-z]+(?:-[a-z0-9]+)+)`", PAGE))
    assert named <= {*BATCH_SIZE_RULES, *LR_RULES}
    assert batch_size_rule("bounded('norm-test', max_size=1024)") and batch_size_rule("whole-if-small(threshold=2000)")
    assert lr_rule("linear-scaling('cosine(0.1)', at=256)")
