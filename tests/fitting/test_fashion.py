"""The command of the issue, as a person types it, on real images; two minutes."""

from pathlib import Path

import pytest

from rightbatch import fit
from rightbatch.data import load
from rightbatch.models import build_model


@pytest.mark.nightly
def test_a_cnn_on_fashion_mnist_reaches_nine_tenths_with_nothing_tuned(data_dir: Path) -> None:
    """Two runs of 120 s on two shared cores gave 91.3 and 91.6 %; 90 % leaves room for a loaded machine."""
    splits = load(str(data_dir / "fashion_mnist"))
    model = build_model("cnn", splits.train.x_shape, 10, seed=0)
    run = fit(model, splits.train, valid=0.1, test=splits.test, seconds=120, progress=False)
    assert run.test is not None and run.test["accuracy"] >= 0.9
