"""A table of numbers and texts, read in four ways: `python benchmarks/mixed_table.py [--housing FILE] [--write]`.

The same network is trained for as many epochs on the same table: texts as codes or one-hot, numbers as they are in the
file or standardised. A fifth of the rows is for testing, other rows for each seed; accuracy after the last epoch.

The table "customers" is made here: 4,000 rows, three columns of numbers with scales from 1 to 10,000, three of text,
and four classes that are a function of both, with noise. `--housing` adds California housing (`california_housing.csv`,
of StatLib): the quarter of all districts in which the value of a house is, from eight columns of numbers and one of
text; missing values are filled in with the mean.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from markdown import machine, write_page

import rightbatch
from rightbatch.data import hold_out, load
from rightbatch.models import build_model

WAYS: dict[str, dict[str, Any]] = {
    "codes, numbers as they are": {"text": "codes", "standardize": False},
    "codes, standardised": {"text": "codes", "standardize": True},
    "one-hot, numbers as they are": {"text": "one-hot", "standardize": False},
    "one-hot, standardised (default)": {"text": "auto"},
}
TRAININGS: dict[str, dict[str, Any]] = {
    "Adam, lr 0.001, batches of 64": {
        "optimizer": partial(torch.optim.Adam, lr=0.001),
        "batch_size": 64,
        "lr": None,
    },
    "`fit` with its defaults": {},
}


def customers(rows: int = 4000) -> pd.DataFrame:
    """The table made here; its last column is the target."""
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "age": random.integers(18, 80, rows),
            "income": random.lognormal(10.3, 0.5, rows).round(),
            "rating": random.normal(0, 1, rows).round(2),
            "region": random.choice(["east", "middle", "north", "south", "west"], rows),
            "job": random.choice([f"job {letter}" for letter in "abcdefghijkl"], rows),
            "plan": random.choice(["basic", "family", "student"], rows),
        }
    )
    by_region, by_job = random.normal(0, 1, 5), random.normal(0, 1, 12)
    numbers = [(frame[name] - frame[name].mean()) / frame[name].std() for name in ("age", "income", "rating")]
    region = by_region[frame["region"].astype("category").cat.codes]
    job = by_job[frame["job"].astype("category").cat.codes]
    first = numbers[0] + region + np.where(frame["plan"] == "student", -1, 0.5) + random.normal(0, 0.4, rows)
    second = numbers[1] * np.where(frame["plan"] == "family", -1, 1) + numbers[2] + job + random.normal(0, 0.4, rows)
    high = (first > first.median()).astype(int), (second > second.median()).astype(int)
    return frame.assign(group=np.array(["stays", "grows", "shrinks", "leaves"])[2 * high[0] + high[1]])


def housing(path: Path) -> pd.DataFrame:
    """California housing, with the quarter of the value as its target."""
    frame = pd.read_csv(path)
    value = frame.pop("median_house_value")
    return frame.assign(quarter=pd.qcut(value, 4, labels=["lowest", "low", "high", "highest"]).astype(str))


def accuracy(path: Path, target: str, way: dict[str, Any], training: dict[str, Any], epochs: int, seed: int) -> float:
    """Of the built-in network on the rows held out, in percent."""
    source = load(path, target=target, missing="mean", **way).train
    train, test = hold_out(source, 0.2, seed)
    assert source.classes is not None
    model = build_model("mlp", source.x_shape, source.classes, seed)
    run = rightbatch.fit(model, train, test=test, epochs=epochs, seed=seed, device="cpu", progress=False, **training)
    assert run.test is not None
    return 100 * run.test["accuracy"]


def table(makers: dict[str, Callable[[], pd.DataFrame]], epochs: int, seeds: int) -> list[str]:
    """The lines of the results, one for each way to read."""
    heads = [f"{name}: {training}" for name in makers for training in TRAININGS]
    cells: dict[str, list[str]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        for name, make in makers.items():
            frame, path = make(), Path(folder, "table.csv")
            frame.to_csv(path, index=False)
            for training in TRAININGS.values():
                for way, options in WAYS.items():
                    found = [
                        accuracy(path, str(frame.columns[-1]), options, training, epochs, seed) for seed in range(seeds)
                    ]
                    print(f"{name}, {way}: {found}", flush=True)
                    cells[way].append(f"{statistics.mean(found):.1f} ({min(found):.1f} to {max(found):.1f})")
    rows = [f"| {' | '.join([way, *values])} |" for way, values in cells.items()]
    return [f"| test accuracy, % | {' | '.join(heads)} |", f"|---|{'---|' * len(heads)}", *rows]


def main() -> None:
    """Print the table, or write it into docs/data.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--housing", type=Path, metavar="FILE")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    makers: dict[str, Callable[[], pd.DataFrame]] = {"customers": customers}
    if given.housing is not None:
        makers["California housing"] = partial(housing, given.housing)
    lines = table(makers, given.epochs, given.seeds)
    if given.write:
        write_page(Path(__file__).resolve().parents[1] / "docs" / "data.md", "", lines, "mixed-table")
    else:
        print("\n".join([*lines, "", machine()]))


if __name__ == "__main__":
    main()
