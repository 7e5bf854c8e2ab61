"""Rules that need more than a noise estimate get it in the loop, and act on it: holding for want of it would show."""

import pytest
import torch
from torch import nn

from rightbatch import fit
from rightbatch.data import load
from rightbatch.rules.batch_size import size_rule


@pytest.mark.parametrize(
    "rule",
    [
        "norm-test(first=4, most=32)",
        "inner-product-test(0.3, first=4, most=32)",
        "augmented-test(first=4, most=32, nu=1.0)",
        "simi-grad(first=4, most=32, target=0.5)",
        "cabs(first=4, least=4, most=32, scale=100.0)",
        "dive-batch(first=200, most=300)",
        "gradient-noise-scale(first=4, exchange=50.0, most=32)",
        "goodput(first=4, most=32)",
    ],
)
def test_the_batch_moves(rule: str, no_report: None) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    run = fit(model, load("digits").train, batch=rule, step=0.1, epochs=3, progress=False, seed=1)
    decided = [row["batch_size"] for row in run.history if "batch_size" in row]
    first = size_rule(rule).first  # type: ignore[attr-defined]
    # The last batch of an epoch is short, and of a few sizes steps are timed: at most one batch in six.
    assert sum(size != first for size in decided) > 0.3 * len(decided)
