"""Results of runs at several batch sizes, put in order: by setting, as a table, and the best size of each seed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean

from ..experiment import Result
from ..over_seeds import mean_interval, show

BUDGETS = ("samples", "seconds", "steps")
WAYS = ("fixed", "root", "linear", "tuned")
SPELLED = {"fixed": "fixed", "root": "scaled by the root", "linear": "scaled linearly", "tuned": "re-tuned"}

Setting = tuple[str, int, str, str]  # network, batch size, way to set the rate, budget


@dataclass
class Cells:
    """Results by what was run.

    Args:
        results: of all trials there are.
        sizes: batch sizes, rising.
        optimizer: in words.
        tuned_by: "loss" or "accuracy", by which rates are re-tuned and sizes compared.
    """

    results: Mapping[str, Result]
    sizes: Sequence[int]
    optimizer: str
    tuned_by: str
    grid: dict[tuple[str, int, int], Result] = field(init=False)  # network, batch size, seed
    switches: dict[tuple[str, int], Result] = field(init=False)  # switch, seed

    def __post_init__(self) -> None:
        known = self.results.values()
        self.grid = {(r["kind"], r["size"], r["seed"]): r for r in known if r["kind"] != "switch"}
        self.switches = {(r["switch"], r["seed"]): r for r in known if r["kind"] == "switch"}

    def by_seed(self, setting: Setting, name: str) -> dict[int, float]:
        """A number of every seed that has it; "gap" is training less test accuracy, "error" one less test accuracy."""
        kind, size, way, budget = setting
        found = {}
        for (k, b, seed), result in self.grid.items():
            known = result["outcomes"][way].get(budget) if (k, b) == (kind, size) else None
            if known and name == "gap":
                found[seed] = known["train_accuracy"] - known["test_accuracy"]
            elif known and name == "error":
                found[seed] = 1 - known["test_accuracy"]
            elif known and name in known:
                found[seed] = known[name]
        return found

    def values(self, setting: Setting, name: str) -> list[float]:
        """Over seeds."""
        return list(self.by_seed(setting, name).values())

    def paired(self, one: Setting, other: Setting, name: str, of_logarithms: bool = False) -> list[float]:
        """One less the other, of the seeds that have both; of numbers, not logarithms, nan where one has diverged."""
        a, b = self.by_seed(one, name), self.by_seed(other, name)
        if of_logarithms:
            return [math.log(a[seed] / b[seed]) for seed in a if seed in b and min(a[seed], b[seed]) > 0]
        seeds = [seed for kind, size, seed in self.grid if (kind, size) == one[:2] and (*other[:2], seed) in self.grid]
        return [a.get(seed, math.nan) - b.get(seed, math.nan) for seed in seeds]

    def large_less_small(
        self, way: str, budget: str, name: str, *, than: str = "", kind: str = "plain", of_logarithms: bool = False
    ) -> list[float]:
        """The largest batch less the smallest, whose rate is set in the way of `than`."""
        large: Setting = (kind, self.sizes[-1], way, budget)
        return self.paired(large, (kind, self.sizes[0], than or way, budget), name, of_logarithms)


def rows(cells: Cells) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table."""
    head = ["equal", "way", "batch size", "runs", "rate", "test accuracy", "test loss", "train loss", "gap"]
    table = []
    for budget in BUDGETS:
        for way in WAYS:
            for b in cells.sizes:
                at: Setting = ("plain", b, way, budget)
                rates = cells.values(at, "rate")
                ran = sum((kind, size) == ("plain", b) for kind, size, _ in cells.grid)
                if not ran:
                    continue
                rate = f"{math.exp(mean(map(math.log, rates))):.2g}" if rates else "diverged"
                names = (("test_accuracy", 4), ("test_loss", 3), ("train_loss", 3), ("gap", 4))
                numbers = [show(cells.values(at, name), digits) if rates else "" for name, digits in names]
                sharp = [_ratio(cells.values(at, name)) for name in ("sharpness", "eigenvalue")]
                table.append([budget, SPELLED[way], f"{b:,}", f"{len(rates)}", rate, *numbers, *sharp])
    return [*head, "sharpness", "largest eigenvalue"], table


def sweet_spot(cells: Cells, budget: str) -> list[float]:
    """log₂ of the size with the best test loss or accuracy, rates re-tuned, of each seed that has all sizes.

    Where neighbours enclose the best size, the minimum of the parabola through the three in log b is taken.
    """
    name = "test_loss" if cells.tuned_by == "loss" else "error"
    by_size = [cells.by_seed(("plain", b, "tuned", budget), name) for b in cells.sizes]
    at, spots = [math.log2(b) for b in cells.sizes], []
    for seed in sorted(set.intersection(*map(set, by_size))) if by_size else ():
        losses = [found[seed] for found in by_size]
        k = losses.index(min(losses))
        move = 0.0
        if 0 < k < len(at) - 1:
            left, right = at[k] - at[k - 1], at[k + 1] - at[k]
            fall, rise = losses[k - 1] - losses[k], losses[k + 1] - losses[k]
            bend = 2 * (fall * right + rise * left)
            move = (fall * right**2 - rise * left**2) / bend if bend > 0 else 0.0
        spots.append(at[k] + move)
    return spots


def seen(cells: Cells) -> list[str]:
    """What is said of the sweet spot, the gap, the switch to large batches and the searches."""
    said = []
    spots = {budget: found for budget in BUDGETS if (found := sweet_spot(cells, budget))}
    if spots:
        said.append(
            f"The sweet spot for generalisation, the batch size of the best test {cells.tuned_by} with re-tuned rates: "
            f"{'; '.join(f'{size_text(found)} in equal {budget}' for budget, found in spots.items())}. For each seed "
            "it is the best size, moved to the minimum of the parabola through it and its neighbours in log b where "
            "it has two; the interval is over seeds. At the edge of the sizes it stands for all beyond."
        )
    gaps = {
        (way, budget): [100 * gap for gap in cells.large_less_small(way, budget, "gap") if math.isfinite(gap)]
        for budget in ("samples", "steps")
        for way in ("fixed", "tuned")
    }
    if gap_texts := [f"{show(found, 2)} {SPELLED[at[0]]} in equal {at[1]}" for at, found in gaps.items() if found]:
        said.append(
            f"The generalisation gap, train less test accuracy, of batch {cells.sizes[-1]:,} less that of batch "
            f"{cells.sizes[0]:,}, in points: {'; '.join(gap_texts)}. A run that has not yet learnt has no gap either."
        )
    alone = cells.by_seed(("plain", cells.sizes[0], "fixed", "samples"), "test_loss")
    grown = [
        result["end"]["test_loss"] - alone[seed]
        for (switch, seed), result in cells.switches.items()
        if switch == "small, then large" and seed in alone and result["end"]
    ]
    if grown:
        said.append(
            f"After batch {cells.sizes[0]:,}, as many samples again in batches of {cells.sizes[-1]:,} change the test "
            f"loss by {show(grown)}."
        )
    searches = [found for (kind, _, _), r in cells.grid.items() if kind == "plain" for found in r["enclosed"].values()]
    if searches:
        said.append(f"{sum(searches)} of {len(searches)} searches for a rate enclosed the best one.")
    return said


def _ratio(values: Sequence[float]) -> str:
    """Geometric mean and the factor that its interval goes up and down."""
    logs = [math.log(value) for value in values if value > 0]
    if not logs:
        return ""
    interval = mean_interval(logs)
    text = f"{math.exp(mean(logs)):.3g}"
    return text if interval is None else f"{text} ×/÷ {math.exp((interval[1] - interval[0]) / 2):.2f}"


def size_text(spots: Sequence[float]) -> str:
    """A batch size by its logarithms to base 2, and its interval."""
    interval = mean_interval(spots)
    text = f"{2 ** mean(spots):.0f}"
    return text if interval is None else f"{text} ({2 ** interval[0]:.0f} to {2 ** interval[1]:.0f})"
