"""`rightbatch list rules`: every rule with what it does, what it measures and the paper it is from."""

import pytest

from rightbatch import cli
from rightbatch.rules.batch_size import BATCH_SIZE_RULES
from rightbatch.rules.catalogue import catalogue
from rightbatch.rules.lr import LR_RULES


def test_every_rule_is_in_it() -> None:
    found = catalogue()
    assert [entry.name for entry in found["batch-size"]] == list(BATCH_SIZE_RULES)
    assert [entry.name for entry in found["lr"]] == list(LR_RULES)
    for entry in found["batch-size"] + found["lr"]:
        assert entry.summary.endswith(".") and "Args:" not in entry.summary and entry.measures
        assert not set("|\n") & set(entry.summary + entry.paper), entry.name


def test_papers_and_measurements_are_those_of_the_rule() -> None:
    batch, step, part = ({entry.name: entry for entry in entries} for entries in catalogue().values())
    title = "Coupling Adaptive Batch Sizes with Learning Rates"
    assert batch["cabs"].paper == f"L. Balles, J. Romero, P. Hennig, {title} (2017, UAI; arXiv 1612.05086)"
    assert batch["goodput"].paper.startswith("A. Qiao et al., Pollux: ") and batch["plateau"].paper == ""
    assert batch["fixed"].measures == "nothing" == step["constant"].measures
    assert "every batch" in batch["norm-test"].measures and "budget" not in batch["norm-test"].measures
    assert "along the gradient" in batch["inner-product-test"].measures
    assert "budget" in batch["sweet-spot"].measures and "seconds of a step" in batch["goodput"].measures
    assert "grow before their step" in batch["big-batch"].measures
    assert "find_lr" in part["range-test"].pairing and "sets lr too" in batch["seesaw"].pairing
    assert "trial steps" in step["armijo"].measures and "distance" in step["dog"].measures
    assert batch["rounded"].measures == step["warm-up"].measures == "as the rule within"
    assert "budget" in step["ada-scale"].measures and "within" in step["ada-scale"].measures


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "rules"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "--batch-size" and "--lr" in lines
    assert max(map(len, lines)) <= 112
    assert {line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "} == {
        *BATCH_SIZE_RULES,
        *LR_RULES,
        "range-test",
    }


def test_what_else_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["list", "nonsense"])
    assert "invalid choice: 'nonsense'" in capsys.readouterr().err
