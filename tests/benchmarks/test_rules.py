"""The comparison of rules: every registered rule is in it, and a run says what it did."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from rightbatch.data import blobs
from rightbatch.rules.batch_size import BATCH_SIZE_RULES

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def rules(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmark, with points in the plane in the place of Fashion-MNIST."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = importlib.import_module("rules")
    x, y = blobs(300).fetch(torch.arange(300))
    problem = importlib.import_module("problems").Problem(
        "blobs", x / 10, y, x / 10, y, lambda seed: nn.Linear(2, 3), nn.functional.cross_entropy, 3, False
    )
    monkeypatch.setattr(module, "problem_of", lambda name, quick: problem)
    easy = module.Setting(rate=0.1, target=0.8, most_s=5.0, epochs=20)
    monkeypatch.setattr(module, "setting", lambda name, quick: easy)
    return module


def test_every_rule_takes_part(rules: ModuleType) -> None:
    texts = [rule for group in rules.GROUPS.values() for rule in group]
    assert {text.partition("(")[0] for text in texts} == set(BATCH_SIZE_RULES)
    for text in texts:
        task = rules.Task("fashion-mlp", text, 0, True)
        if text not in (rules.WITH_SPECTRUM, rules.OF_SWEET_SPOT):
            assert rules.batch_size_rule_of(task, rules.problem_of("fashion-mlp", True)).name == text.partition("(")[0]


@pytest.mark.parametrize("rule", ["fixed(16)", "norm-test", "seesaw(8, total_samples=TOTAL)", "replay"])
def test_a_run_ends_at_the_target(rules: ModuleType, rule: str) -> None:
    result = rules.run(rules.Task("fashion-mlp", rule, 0, True))
    assert result.reached and result.loss <= 0.8 and result.seconds > 0 and not result.refused
    assert 0 < result.steps <= result.samples <= 20 * 300
    assert result.sizes[0][0] == 0 and all(1 <= size <= 300 for _, size in result.sizes)


def test_the_table_says_what_was_missed_and_refused(rules: ModuleType) -> None:
    make = lambda seed, **about: rules.Result("fashion-mlp", "rounded", seed, **about)  # noqa: E731
    reached = {"reached": True, "samples": 640, "steps": 10, "seconds": 0.5, "loss": 0.7}
    row = rules._row("rounded", [make(0, **reached), make(1, **reached), make(2, samples=9, steps=1, loss=2.0)])
    assert row == "| `rounded` | 0.50 | 640 | 10 | 64 | 2 of 3 |"
    missed = rules._row("rounded", [make(0, samples=900, steps=9, seconds=1.0, loss=2.0)])
    assert missed == "| `rounded` | missed: 2.0000 after 1.00 | 900 | 9 | 100 | 0 of 1 |"
    assert "refused: no" in rules._row("rounded", [make(0, refused="no")])
    assert "not run" in rules._row("rounded", [])


def test_the_figure_is_drawn(rules: ModuleType) -> None:
    result = rules.Result("fashion-mlp", "rounded", 0, sizes=[(0, 32), (320, 64)])
    figure = rules.draw("fashion-mlp", {("fashion-mlp", "rounded"): [result]})
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(rules.GROUPS)[1:]
    rules.plt.close(figure)
