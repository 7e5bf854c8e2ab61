"""Train on data that stay on disk: logistic regression, nothing tuned, and a report.

    pip install 'rightbatch[report]'
    python examples/larger_than_memory.py
    python examples/larger_than_memory.py --samples 5_000_000 --folder runs/millions      2 GB, a few minutes

The samples come as a stream that is written to disk once; training then reads only the rows of each batch, in an order
that is reshuffled every epoch. The labels are drawn from a known logistic model, so the loss of the true model is known
too. Run the same command again to resume.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import rightbatch
from rightbatch.data import as_source, write_shards

FEATURES = 100
DIRECTION = 2 * np.random.default_rng(0).standard_normal(FEATURES, dtype=np.float32) / FEATURES**0.5
HELD_OUT = 50_000


def stream(samples: int, seed: int) -> Iterator[tuple[np.ndarray, int]]:
    """Samples as they might come from a sensor or a queue."""
    rng = np.random.default_rng(seed)
    for start in range(0, samples, 10_000):
        x = rng.standard_normal((min(10_000, samples - start), FEATURES), dtype=np.float32)
        y = rng.random(len(x)) < 1 / (1 + np.exp(-x @ DIRECTION))
        yield from zip(x, y.astype(np.int64), strict=True)


def least_loss(x: torch.Tensor, y: torch.Tensor) -> float:
    """The mean loss of the very model that the labels were drawn from."""
    return float(F.binary_cross_entropy_with_logits(x @ torch.from_numpy(DIRECTION), y.float()))


def main() -> None:
    """Write the data where they are missing, then train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=400_000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="for the data and the run; a temporary one by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        data, run_dir = (folder / f"{name}-{options.samples}" for name in ("data", "run"))
        source = as_source(data) if data.exists() else write_shards(stream(options.samples, 1), data)
        print(source.describe())
        held_out = list(stream(HELD_OUT, 2))
        x = torch.from_numpy(np.stack([row for row, _ in held_out]))
        y = torch.tensor([int(label) for _, label in held_out])

        model = nn.Linear(FEATURES, 2)
        run = rightbatch.fit(
            model, source, valid=(x, y), epochs=options.epochs, eval_every=0.1, run_dir=run_dir, resume=True
        )

        steps = [row for row in run.history if "batch_size" in row]
        sizes = [row["batch_size"] for row in steps]
        print(f"{run.stopped}: {len(steps):,} steps with batches of {min(sizes):,} to {max(sizes):,}")
        excess = run.best["valid_loss"] - least_loss(x, y)
        print(f"validation loss {run.best['valid_loss']:.5f}, {excess:+.1e} from that of the true model")
        if options.folder:
            print(f"open {run_dir / 'report.html'}")


if __name__ == "__main__":
    main()
