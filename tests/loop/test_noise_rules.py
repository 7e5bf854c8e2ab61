"""Rules that need more than a noise estimate get it in the loop, and act on it: holding for want of it would show."""

import pytest
import torch
from torch import nn

from rightbatch import fit
from rightbatch.data import load
from rightbatch.rules.batch_size import batch_size_rule


@pytest.mark.parametrize(
    "rule",
    [
        "norm-test(initial=4, max_size=32)",
        "inner-product-test(0.3, initial=4, max_size=32)",
        "augmented-test(initial=4, max_size=32, nu=1.0)",
        "simi-grad(initial=4, max_size=32, target=0.5)",
        "cabs(initial=4, min_size=4, max_size=32, scale=100.0)",
        "dive-batch(initial=200, max_size=300)",
        "gradient-noise-scale(initial=4, exchange=50.0, max_size=32)",
        "goodput(initial=4, max_size=32)",
    ],
)
def test_the_batch_moves(rule: str, no_report: None) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    run = fit(model, load("digits").train, batch_size=rule, lr=0.1, epochs=3, progress=False, seed=1)
    decided = [row["batch_size"] for row in run.history if "batch_size" in row]
    initial = batch_size_rule(rule).initial  # type: ignore[attr-defined]
    # The last batch of an epoch is short, and of a few sizes steps are timed: at most one batch in six.
    assert sum(size != initial for size in decided) > 0.3 * len(decided)
