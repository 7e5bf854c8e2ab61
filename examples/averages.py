"""Exponentially weighted averages of daily temperatures, with and without bias correction.

    python examples/averages.py                                     a generated year
    python examples/averages.py DailyDelhiClimateTrain.csv          Delhi, 2013 to 2016, and a figure of it
    python examples/averages.py DailyDelhiClimateTrain.csv --out averages.svg

A larger beta averages over more days, about 1/(1 - beta): the curve is smoother and has a longer lag. Without bias
correction it starts far too low; the correction fixes that and vanishes after a few windows.
"""

import argparse
import csv
import math
import random

import matplotlib.pyplot as plt

from rightbatch.averages import exponential_averages
from rightbatch.report.drawing import BLUE, GREEN, MUTED, ORANGE, STYLE, VIOLET

BETAS = {0.5: GREEN, 0.9: BLUE, 0.98: ORANGE}


def temperatures(path: str | None) -> list[float]:
    """Mean temperature of each day in °C, from a file or synthetic."""
    if path is not None:
        with open(path, newline="", encoding="utf-8") as file:
            return [float(row["meantemp"]) for row in csv.DictReader(file)]
    noise = random.Random(0)
    return [25 - 10 * math.cos(2 * math.pi * day / 365) + noise.gauss(0, 2) for day in range(365)]


def draw(days: list[float], out: str) -> None:
    """The whole series, and its first days with and without correction."""
    with plt.rc_context({**STYLE, "svg.hashsalt": "averages"}):
        figure, (whole, start) = plt.subplots(1, 2, figsize=(10, 3.6), width_ratios=(3, 2), layout="constrained")
        whole.plot(days[:730], ".", color=MUTED, markersize=2, alpha=0.6, label="one day")
        start.plot(days[:60], ".", color=MUTED, markersize=4)
        for beta, colour in BETAS.items():
            corrected = exponential_averages(days, beta)
            label = f"β = {beta}: about {1 / (1 - beta):.0f} days"
            whole.plot(corrected[:730], color=colour, linewidth=1.5, label=label)
        start.plot(exponential_averages(days[:60], 0.98), color=ORANGE, label="β = 0.98, corrected")
        start.plot(exponential_averages(days[:60], 0.98, corrected=False), "--", color=VIOLET, label="not corrected")
        whole.set(xlabel="day", ylabel="mean temperature, °C", title="Two years, corrected")
        start.set(xlabel="day", title="The first sixty days", ylim=(0, None))
        whole.set_ylim(0, 50)
        whole.legend(loc="upper center", ncols=2)
        start.legend(loc="lower right")
        figure.savefig(out, metadata={"Date": None} if out.endswith(".svg") else None)


def main() -> None:
    """Print the averages and draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", help="a CSV file with a column meantemp")
    parser.add_argument("--out", default="averages.png", help="where to draw")
    options = parser.parse_args()
    days = temperatures(options.file)
    print(f"{len(days)} days; the last was {days[-1]:.1f} °C")
    for beta in BETAS:
        corrected, plain = (exponential_averages(days, beta, corrected=way)[9] for way in (True, False))
        print(f"beta {beta}: after 10 days {corrected:.1f} °C, without correction {plain:.1f} °C")
    draw(days, options.out)
    print(f"drawn: {options.out}")


if __name__ == "__main__":
    main()
