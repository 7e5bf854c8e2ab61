"""Train on NumPy arrays, nothing tuned, and write a report.

    pip install 'rightbatch[demo]'
    python examples/fit_arrays.py
    python examples/fit_arrays.py --run-dir runs/digits --seconds 20

Batch size and learning rate are chosen from measurements during training; the report shows both, and every decision
with its reason. The returned model is the one with the lowest validation loss.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from torch import nn

import rightbatch


def main() -> None:
    """Fit a small convolutional network to the digits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--run-dir", type=Path, help="folder for the report (default: a temporary folder)")
    options = parser.parse_args()

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order]
    images = (x / 16).reshape(-1, 1, 8, 8)  # an ordinary float64 array; the library makes it float32 tensors
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 10),
    )

    run = rightbatch.fit(
        model,
        (images[:1500], y[:1500]),
        valid=0.1,
        test=(images[1500:], y[1500:]),
        seconds=options.seconds,
        run_dir=options.run_dir or Path(tempfile.mkdtemp()) / "run",
    )

    steps = [row for row in run.history if "batch_size" in row]
    sizes = [row["batch_size"] for row in steps]
    print(f"{run.stopped}: {len(steps)} steps with batches of {min(sizes)} to {max(sizes)}, the last {sizes[-1]}")
    print(f"best validation accuracy {run.best['valid_accuracy']:.3f} at epoch {run.best['epoch']:.1f}")
    if run.test is not None:
        print(f"test accuracy {run.test['accuracy']:.3f}")
    if run.folder is not None:
        print(f"open {run.folder / 'report.html'}")


if __name__ == "__main__":
    main()
