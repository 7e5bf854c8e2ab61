"""What is claimed of Big Batch, and what the runs say of it."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..experiment import Finding, Result, Verdict
from ..over_seeds import below_zero, show, within

Cells = Mapping[tuple[str, int], Result]  # by method and seed

DE = "De, Yadav, Jacobs, Goldstein, “Automated Inference with Adaptive Batches” (2017)"
LATE = 0.9  # of the passes: what is averaged at the end
MIDDLE = (0.4, 0.55)  # the looks from which the second half of the passes is judged
TWOFOLD = math.log10(2)  # an objective or a norm within a factor of two is as good, on a scale of many decades
POINT = 1.0  # of accuracy
STRAIGHT = 0.95  # R² of a straight line
LEAST = 1e-16  # what rounding leaves of an excess


def tail(result: Result, name: str, low: float = LATE, high: float = 1.0) -> float:
    """Mean of log₁₀ of a curve over the looks between these shares of the passes; the end is the last look."""
    end = result["passes"][-1]
    values = [v for p, v in zip(result["passes"], result[name], strict=True) if low * end < p <= high * end]
    return float(np.mean(np.log10(np.maximum(values, LEAST)))) if values else math.nan


def findings(cells: Cells, thetas: Sequence[float], untuned: float, linear: bool) -> list[Finding]:
    """Every claim and its verdict, of forms with these θ beside a rate that nobody tuned."""
    of_classes = any(r["test"] for r in cells.values())
    by_error = of_classes and not linear
    margin, unit = (POINT, "points of test error") if by_error else (TWOFOLD, "log₁₀ of the objective")
    if linear:
        unit = "log₁₀ of the excess objective"

    def cost(result: Result) -> float:
        return 100 - 100 * float(np.mean(result["test"][-2:])) if by_error else tail(result, "excess")

    def beyond(arm: str, others: Sequence[str]) -> list[float]:
        """By seed, cost of a method over the least of the others."""
        found = []
        for seed in _seeds(cells):
            ours, theirs = cells.get((arm, seed)), [cells.get((other, seed)) for other in others]
            if ours is None or any(r is None for r in theirs):
                continue
            known = [cost(r) for r in theirs if r is not None and r["whole"]]
            if ours["whole"] and known:
                found.append(cost(ours) - min(known))
        return found

    def compared(
        claim: str, published: str, forms: Sequence[str], others: Callable[[float], Sequence[str]], allowed: float
    ) -> Finding:
        parts, verdicts = [], []
        for theta in thetas:
            for form in forms:
                values = beyond(f"{form}, θ = {theta:g}", others(theta))
                if values:
                    parts.append(f"{form}, θ = {theta:g}: {show(values, 2)}")
                if theta == thetas[0]:
                    verdicts.append(below_zero([value - allowed for value in values]))
        ours = f"{'; '.join(parts)} ({unit})" if parts else "not run"
        return Finding(claim, DE, published, ours, _all(verdicts))

    tuned, automatic = ("SGD, tuned", "SGD, decayed"), ("Armijo", "BB")
    near = "one point of test accuracy" if by_error else "a factor of two"
    whose = f"with θ = {thetas[0]:g}"
    found = [
        compared(
            f"Big Batch with {form}, {whose} and nothing tuned, comes in equal passes within {near} of SGD whose "
            "constant or decayed rate was tuned, or further",
            "comparable; curves only",
            (form,),
            lambda _: tuned,
            margin,
        )
        for form in automatic
    ]
    found += [
        compared(
            f"Big Batch with Armijo and with BB, {whose}, beats SGD at a constant rate of {untuned:g} that "
            "nobody tuned",
            "it does; curves only",
            automatic,
            lambda _: ("SGD, untuned",),
            0.0,
        ),
        compared(
            f"the steps of Armijo and BB, {whose}, need no tuning: they come within {near} of Big Batch with its "
            "fixed step tuned, or further",
            "hardly any oversight; curves only",
            automatic,
            lambda theta: (f"fixed step, θ = {theta:g}",),
            margin,
        ),
        _no_decay(cells, thetas),
        _surrogate(cells, thetas[0]),
    ]
    return [*found, _straight(cells, thetas)] if linear else found


def _whole(cells: Cells, arm: str, seed: int) -> Result | None:
    result = cells.get((arm, seed))
    return result if result is not None and result["whole"] else None


def _no_decay(cells: Cells, thetas: Sequence[float]) -> Finding:
    """Decades that the objective falls in the second half of the passes, both at one constant rate."""
    parts, verdicts = [], []
    for theta in thetas:
        runs = [r for s in _seeds(cells) if (r := _whole(cells, f"fixed step, θ = {theta:g}", s)) is not None]
        both = [(_fall(r), _fall(r["plain"])) for r in runs if r["plain"]["whole"]]
        falls = [pair for pair in both if all(map(math.isfinite, pair))]
        if falls:
            ours, theirs = ([fall[i] for fall in falls] for i in (0, 1))
            parts.append(f"θ = {theta:g}: {show(ours, 2)}, SGD {show(theirs, 2)}")
        verdicts.append(below_zero([theirs - ours for ours, theirs in falls]))
    return Finding(
        f"at a constant rate Big Batch with θ = {thetas[0]:g} keeps falling in the second half of the passes "
        "where SGD, at the same rate, comes to a floor",
        DE,
        "no decay is needed; curves only",
        f"decades that the objective falls, {'; '.join(parts)}" if parts else "not run",
        verdicts[0],
    )


def _fall(result: Result) -> float:
    return tail(result, "excess", *MIDDLE) - tail(result, "excess")


def _surrogate(cells: Cells, theta: float) -> Finding:
    """The norm of the batch's gradient over that of all the data, late."""
    parts, verdicts = [], []
    for arm in (*(f"{form}, θ = {theta:g}" for form in ("Armijo", "BB", "fixed step")), "SGD, tuned"):
        runs = [r for s in _seeds(cells) if (r := _whole(cells, arm, s)) is not None]
        ratios = [tail(r, "batch_norms") - tail(r, "norms") for r in runs]
        if ratios:
            parts.append(f"{arm}: {show(ratios, 2)}")
        if arm != "SGD, tuned":
            verdicts.append(within(ratios, (-TWOFOLD, TWOFOLD)))
    return Finding(
        "late in a run the norm of Big Batch's gradient lies within a factor of two of that of all the data, so that "
        "it can tell when to stop",
        DE,
        "a meaningful stopping test, where the norm in SGD is mostly noise",
        f"log₁₀ of the ratio, {'; '.join(parts)}" if parts else "not run",
        _all(verdicts),
    )


def _straight(cells: Cells, thetas: Sequence[float]) -> Finding:
    """R² of the logarithm of the norm against steps, from the first pass on; theory has it for θ below 1."""
    parts: list[str] = []
    verdict: Verdict = "cannot tell"
    for theta in thetas:
        runs = [r for s in _seeds(cells) if (r := _whole(cells, f"fixed step, θ = {theta:g}", s)) is not None]
        squares = [square for r in runs if (square := _r2(r)) is not None]
        if squares:
            parts.append(f"θ = {theta:g}: {show(squares)}")
        if theta == max((t for t in thetas if t < 1), default=0.0):
            verdict = within(squares, (STRAIGHT, math.inf))
    return Finding(
        "on a strongly convex objective the logarithm of the gradient norm falls along a straight line over the steps "
        f"of Big Batch with a fixed step and θ below 1: R² above {STRAIGHT:g}",
        DE,
        "a linear rate, for θ below 1",
        f"R² from the first pass on, {'; '.join(parts)}" if parts else "not run",
        verdict,
    )


def _r2(result: Result) -> float | None:
    late = [i for i, p in enumerate(result["passes"]) if p >= 1]
    if len(late) < 4:
        return None
    steps, norms = (np.array([result[name][i] for i in late]) for name in ("steps", "norms"))
    return float(np.corrcoef(steps, np.log10(np.maximum(norms, LEAST)))[0, 1] ** 2)


def _seeds(cells: Cells) -> list[int]:
    return sorted({seed for _, seed in cells})


def _all(verdicts: Sequence[Verdict]) -> Verdict:
    """What several say of one claim: one that differs refutes it."""
    if "differs" in verdicts:
        return "differs"
    return "agrees" if verdicts and set(verdicts) == {"agrees"} else "cannot tell"
