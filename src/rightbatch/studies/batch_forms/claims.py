"""What the runs of the forms say of published accuracies, of small and large batches, and of the automatic mode."""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import mean

import numpy as np

from ..experiment import Finding, Result, Verdict
from ..over_seeds import below_zero, run_interval, show

Forms = dict[str, dict[int, Result]]  # runs by the name of the form and the seed

FULL = 0  # stands for all the data
# Accuracy on training and test data of single runs, by batch size and learning rate.
PUBLISHED = {
    (FULL, 0.01): (0.816, 0.830),
    (1, 0.01): (0.612, 0.606),
    (1, 0.001): (0.816, 0.824),
    (32, 0.01): (0.832, 0.812),
}
AUTOMATIC = {"automatic": "auto", "automatic from batch 1": "sweet-spot(initial=1)"}
AIM, AIM_UPDATES = 0.82, 12_500  # what batch 1 reaches by its 25th epoch, when its slower rate suits it
EARLY_SHARE = 20  # of the epochs, one in so many


def form_name(size: int, rate: float) -> str:
    """Such as "batch 32 at 0.01"."""
    return f"{'all' if size == FULL else f'batch {size}'} at {rate:g}"


def updates_text(runs: Mapping[int, Result]) -> str:
    """Updates of a whole run, from the fewest to the most."""
    counts = [run["updates"] for run in runs.values()]
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def early(run: Result) -> float:
    """Mean training accuracy of the first twentieth of the epochs."""
    return float(mean(run["train"][: max(1, len(run["train"]) // EARLY_SHARE)]))


def volatility(run: Result) -> float:
    """Mean change of the test accuracy from one epoch to the next, over the second half."""
    late = run["test"][len(run["test"]) // 2 :]
    return float(np.mean(np.abs(np.diff(late)))) if len(late) > 1 else 0.0


def findings(
    forms: Forms, sizes: Sequence[int], rate: float, low_rate: float, published: Mapping[str, tuple[float, float]]
) -> list[Finding]:
    """Every claim and its verdict.

    Args:
        forms: runs.
        sizes: between a single sample and all of them, by which small and large are judged.
        rate: at which they were run.
        low_rate: which batch 1 was given as well.
        published: accuracies by the name of the form, where this is the published design.
    """
    found = [_held_against(form, figures, forms[form]) for form, figures in published.items() if form in forms]
    fast, slow = (forms.get(form_name(1, lr), {}) for lr in (rate, low_rate))
    worse = [fast[seed]["test"][-1] - slow[seed]["test"][-1] for seed in fast if seed in slow]
    for claim, theirs, values, what in (
        (
            f"batch 1 ends with a lower test accuracy at {rate:g} than at {low_rate:g}",
            "0.218 lower" if published else "lower",
            worse,
            "difference of test accuracy",
        ),
        (
            "at one learning rate, small batches learn fast and large ones slowly",
            "read off curves",
            _slopes(forms, sizes, rate, early),
            "early accuracy per doubling of the batch",
        ),
        (
            "at one learning rate, small batches are volatile and large ones steady",
            "read off curves",
            _slopes(forms, sizes, rate, volatility),
            "volatility per doubling of the batch",
        ),
    ):
        if values:
            ours = f"{what} {show(values, digits=4)}"
            found.append(Finding(claim, "Brownlee", theirs, ours, below_zero(values)))
    return found + [_automatic(form, forms[form]) for form in AUTOMATIC if published and form in forms]


def _held_against(form: str, figures: tuple[float, float], runs: Mapping[int, Result]) -> Finding:
    """The published figures are of one run, and so held against where one further run of ours would lie."""
    ends = {part: [run[part][-1] for run in runs.values()] for part in ("train", "test")}
    where = [run_interval(values) for values in ends.values()]
    inside = [span and span[0] <= figure <= span[1] for span, figure in zip(where, figures, strict=True)]
    verdict: Verdict = "cannot tell" if None in inside else "agrees" if all(inside) else "differs"
    ours = ", ".join(f"{part} {show(values, further=True)}" for part, values in ends.items())
    theirs = f"train {figures[0]:.3f}, test {figures[1]:.3f}"
    return Finding(f"accuracy at the end: {form}", "Brownlee", theirs, ours, verdict)


def _automatic(form: str, runs: Mapping[int, Result]) -> Finding:
    """The automatic mode held against what it is to reach on the published problem."""
    ends = [run["test"][-1] for run in runs.values()]
    verdict = below_zero([AIM - end for end in ends])
    if verdict == "agrees" and max(run["updates"] for run in runs.values()) >= AIM_UPDATES:
        verdict = "differs"
    theirs = f"test accuracy above {AIM} in fewer than {AIM_UPDATES:,} updates"
    ours = f"{show(ends, 4)} in {updates_text(runs)}, {len(ends)} runs"
    return Finding(f"{form} needs no tuning", "our aim", theirs, ours, verdict)


def _slopes(forms: Forms, sizes: Sequence[int], rate: float, measure: Callable[[Result], float]) -> list[float]:
    """The slope of a measure over log₂ of the batch size, for each seed that has three sizes or more."""
    by_size = {size: forms.get(form_name(size, rate), {}) for size in sizes}
    slopes = []
    for seed in sorted({seed for runs in by_size.values() for seed in runs}):
        there = [(math.log2(size), measure(runs[seed])) for size, runs in by_size.items() if seed in runs]
        if len(there) >= 3:
            doublings, values = np.array(there).T
            slopes.append(float(np.polyfit(doublings, values, 1)[0]))
    return slopes
