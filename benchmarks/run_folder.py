"""What a run folder costs a short run: `python benchmarks/run_folder.py [--seconds 5] [--runs 5]`.

`fit(model, digits, valid=0.2, seconds=5, run_dir=...)` on small models. The time in evaluations, checkpoints and the
report is divided by the time of the whole call. The first run of each model also imports matplotlib, and is given
apart; of the others the median.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import torch
from torch import nn

import rightbatch
from rightbatch.data import load
from rightbatch.fitting import recorder, training
from rightbatch.models import build_model

MODELS: dict[str, Callable[[], nn.Module]] = {
    "MLP 64-64-10": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)),
    "CNN, the built-in one": lambda: build_model("cnn", (1, 8, 8), 10),
}


class Spent:
    """Seconds in functions, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def watch(self, owner: Any, function: str, name: str) -> None:
        """Add up the time of every call from now on."""
        inner = getattr(owner, function)

        def timed(*args: Any, **kwargs: Any) -> Any:
            started_s = time.perf_counter()
            try:
                return inner(*args, **kwargs)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started_s

        setattr(owner, function, timed)


def measure(make: Callable[[], nn.Module], seconds: float, spent: Spent) -> dict[str, float]:
    """The shares of one run."""
    spent.seconds.clear()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        started_s = time.perf_counter()
        rightbatch.fit(make(), load("digits").train, valid=0.2, seconds=seconds, progress=False, run_dir=folder)
        whole_s = time.perf_counter() - started_s
    return {name: part / whole_s for name, part in spent.seconds.items()} | {
        "together": sum(spent.seconds.values()) / whole_s
    }


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    spent = Spent()
    spent.watch(training.Training, "_evaluate", "evaluation")
    spent.watch(training.Training, "_checkpoint", "checkpoints")
    spent.watch(training, "save_weights", "parameters")
    spent.watch(recorder, "write_report", "report")
    print(f"{datetime.now(UTC):%d %B %Y}, torch {torch.__version__}, runs of {options.seconds:g} s")
    print("| model | run | evaluation | checkpoints | parameters | report | together |\n|---|---|---|---|---|---|---|")
    names = ("evaluation", "checkpoints", "parameters", "report", "together")
    for model, make in MODELS.items():
        runs = [measure(make, options.seconds, spent) for _ in range(options.runs + 1)]
        for label, some in (("first", runs[:1]), (f"median of {options.runs}", runs[1:])):
            cells = " | ".join(f"{100 * statistics.median(run[name] for run in some):.1f} %" for name in names)
            print(f"| {model} | {label} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
