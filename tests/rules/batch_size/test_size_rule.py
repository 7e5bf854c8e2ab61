import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import rightbatch
from rightbatch.errors import InputError
from rightbatch.rule_text import write_rule
from rightbatch.rules.batch_size import BigBatch, Fixed, SweetSpot, batch_size_rule
from rightbatch.rules.lr import Constant


@pytest.mark.parametrize(
    ("spec", "rule"),
    [
        (64, Fixed(64)),
        (64.0, Fixed(64)),
        (np.int64(64), Fixed(64)),
        ("64", Fixed(64)),
        ("fixed(64)", Fixed(64)),
        ("fixed(batch_size=64)", Fixed(64)),
        ("big-batch", BigBatch()),
        ("Big_Batch()", BigBatch()),
        (" big-batch( kappa = 3, growth=.2 ) ", BigBatch(kappa=3, growth=0.2)),
        ("sweet-spot(max_size=None, floor=3)", SweetSpot(floor=3)),
        (SweetSpot(initial=8), SweetSpot(initial=8)),
    ],
)
def test_understands(spec: object, rule: object) -> None:
    assert batch_size_rule(spec) == rule


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (0, "at least 1"),
        (-3, "at least 1"),
        (2.5, "2.5: give a whole number"),
        (True, "True: give a whole number"),
        (math.nan, "whole number"),
        (math.inf, "whole number"),
        ("0", "at least 1"),
        ("2.5", "whole number"),
        (None, "one of 'fixed', 'horizon', 'big-batch', 'sweet-spot'"),
        ([32], "no batch size"),
        (SweetSpot, "no batch size"),
        (Constant(), "no batch size"),
        ("sweet-spt", "did you mean 'sweet-spot'"),
        ("quantum", "or a number"),
        ("", "cannot be read"),
        ("sweet-spot(", "cannot be read"),
        ("big-batch(kapa=3)", "did you mean 'kappa'"),
        ("big-batch(kappa=3, kappa=4)", "twice"),
        ("fixed(3, batch_size=4)", "twice"),
        ("fixed(1, 2)", "only"),
        ("fixed", "lacks 'batch_size'"),
        ("fixed(batch_size=__import__('os'))", "cannot be read"),
        ("fixed(**{'batch_size': 3})", "knows"),
        ("big-batch(kappa=-1)", "kappa is -1: give a finite number at least 0"),
        ("big-batch(theta='half')", "theta is 'half'"),
    ],
)
def test_refuses_with_a_word_of_help(spec: object, words: str) -> None:
    with pytest.raises(InputError) as caught:
        batch_size_rule(spec)
    assert words in str(caught.value)


def test_text_names_only_what_differs_from_the_defaults() -> None:
    assert write_rule(SweetSpot(floor=3.0)) == "sweet-spot(floor=3.0)"
    assert write_rule(Fixed(8)) == "fixed(batch_size=8)"


def test_rules_load_without_torch() -> None:
    code = "import sys, rightbatch.rules.batch_size, rightbatch.rules.lr; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(rightbatch.__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == 0
