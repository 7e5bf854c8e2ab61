"""What a run folder costs a short run: `python benchmarks/run_folder.py [--runs 5]`.

`fit(model, digits, valid=0.2, epochs=..., run_dir=...)` on small models, with as many epochs as take about five seconds
on an idle core. The processor time in evaluations, checkpoints and the report is divided by that of the whole call: by
the clock, other work on the machine would shorten a run that is limited by seconds, but not its report. The first run
also imports matplotlib, and is given apart; of the others the median.
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

MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "MLP 64-64-10": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)), 600),
    "CNN, the built-in one": (lambda: build_model("cnn", (1, 8, 8), 10), 30),
}


class Spent:
    """Seconds in functions, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def watch(self, owner: Any, function: str, name: str) -> None:
        """Add up the time of every call from now on."""
        inner = getattr(owner, function)

        def timed(*args: Any, **kwargs: Any) -> Any:
            started_s = time.process_time()
            try:
                return inner(*args, **kwargs)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - started_s

        setattr(owner, function, timed)


def measure(make: Callable[[], nn.Module], epochs: int, spent: Spent) -> dict[str, float]:
    """The shares of one run."""
    spent.seconds.clear()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        started_s = time.process_time()
        rightbatch.fit(make(), load("digits").train, valid=0.2, epochs=epochs, progress=False, run_dir=folder)
        whole_s = time.process_time() - started_s
    return {name: part / whole_s for name, part in spent.seconds.items()} | {
        "together": sum(spent.seconds.values()) / whole_s,
        "seconds": whole_s,
    }


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    spent = Spent()
    spent.watch(training.Training, "_evaluate", "evaluation")
    spent.watch(training.Training, "_checkpoint", "checkpoints")
    spent.watch(training, "save_weights", "parameters")
    spent.watch(recorder, "write_report", "report")
    print(f"{datetime.now(UTC):%d %B %Y}, torch {torch.__version__}")
    print("| model | run | evaluation | checkpoints | parameters | report | together | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    names = ("evaluation", "checkpoints", "parameters", "report", "together")
    for model, (make, epochs) in MODELS.items():
        runs = [measure(make, epochs, spent) for _ in range(options.runs + 1)]
        for label, some in (("first", runs[:1]), (f"median of {options.runs}", runs[1:])):
            cells = " | ".join(f"{100 * statistics.median(run[name] for run in some):.1f} %" for name in names)
            seconds = statistics.median(run["seconds"] for run in some)
            print(f"| {model} | {label} | {cells} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
