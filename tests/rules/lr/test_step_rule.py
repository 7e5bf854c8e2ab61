import math

import pytest

from rightbatch.errors import InputError
from rightbatch.rule_text import write_rule
from rightbatch.rules.batch_size import Fixed
from rightbatch.rules.lr import LR_RULES, Armijo, BarzilaiBorwein, Constant, NoiseScaled, lr_rule


@pytest.mark.parametrize(
    ("spec", "rule"),
    [
        (None, Constant()),
        (0.1, Constant(0.1)),
        (1, Constant(1.0)),
        ("0.1", Constant(0.1)),
        ("1e-3", Constant(1e-3)),
        ("constant", Constant()),
        ("constant(0.1)", Constant(0.1)),
        ("armijo", Armijo()),
        ("armijo(c=0.3, reset='gradual')", Armijo(c=0.3, reset="gradual")),
        ("barzilai_borwein(weight='noise')", BarzilaiBorwein(weight="noise")),
        ("noise-scaled(0.1, at=64)", NoiseScaled(0.1, at=64)),
        (Armijo(initial=2.0), Armijo(initial=2.0)),
    ],
)
def test_understands(spec: object, rule: object) -> None:
    assert lr_rule(spec) == rule


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (0, "above 0"),
        (-0.1, "above 0"),
        (True, "finite number"),
        (math.nan, "finite number"),
        ("inf", "finite number"),
        ("armjo", "did you mean 'armijo'"),
        ("armijo(reset=gradual)", "quoted words"),
        ("armijo(reset='weekly')", "'never', 'gradual', 'always'"),
        ("armijo(stepp=1)", "'armijo' knows 'initial'"),
        ([0.1], "'constant', 'tournament', 'armijo'"),
        (Armijo, "no learning rate"),
        (Fixed(3), "no learning rate"),
    ],
)
def test_refuses_with_a_word_of_help(spec: object, words: str) -> None:
    with pytest.raises(InputError) as caught:
        lr_rule(spec)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", LR_RULES)
def test_every_rule_can_be_had_by_name(name: str) -> None:
    rule = lr_rule(name)
    assert rule.name == name and write_rule(rule) == name
