"""What runs at several batch sizes say of the claims about batch size and generalisation."""

import math
from collections.abc import Mapping, Sequence
from statistics import mean

from ..experiment import SHEN, Finding, Verdict
from ..over_seeds import below_zero, mean_interval, show
from .results import SPELLED, WAYS, Cells, size_text, sweet_spot

KESKAR = "Keskar et al. (ICLR 2017)"
MARGIN = 0.005  # half a point of accuracy: less counts as testing as well
PUBLISHED_RATIO = 9.0  # the least of six ratios of sharpness


def findings(cells: Cells) -> list[Finding]:
    """Every claim and what became of it."""
    small, large = f"{cells.sizes[0]:,}", f"{cells.sizes[-1]:,}"
    run = f"({cells.optimizer}; {large} against {small})"
    found = [
        _worse(
            f"a large batch tests worse than a small one in equal steps at one rate {run}",
            f"{KESKAR}, Adam",
            "0.2 to 5.3 points worse on six networks",
            cells.large_less_small("fixed", "steps", "test_accuracy"),
        ),
        *_sharper(cells, run),
        _worse(
            f"at one rate, in equal samples, a larger batch has lower test accuracy {run}",
            SHEN,
            "lower the larger the batch",
            cells.large_less_small("fixed", "samples", "test_accuracy"),
        ),
        _as_well(
            f"in equal samples, a larger rate recovers the test accuracy of the large batch {run}",
            SHEN,
            "recovered",
            {SPELLED[way]: cells.large_less_small(way, "samples", "test_accuracy", than="fixed") for way in WAYS[1:]},
            any_of=True,
        ),
        *_switch_findings(cells, run),
        _as_well(
            f"with the rate scaled by the root and as many updates, a large batch tests as well as a small one {run}",
            "Hoffer et al. (2017), with ghost batch norm, which is not used here",
            "the gap closes",
            {"scaled by the root": cells.large_less_small("root", "steps", "test_accuracy", than="fixed")},
        ),
        _as_well(
            f"with rates re-tuned by {cells.tuned_by} and as many steps, larger batches test no worse {run}",
            "Shallue et al. (2019)",
            "no degradation found",
            {"re-tuned": cells.large_less_small("tuned", "steps", "test_accuracy")},
        ),
        _worse(
            f"with rates re-tuned by {cells.tuned_by} and as many steps, small batches still test better {run}",
            "Smith, Elsen, De (2020)",
            "better at small and medium sizes",
            cells.large_less_small("tuned", "steps", "test_accuracy"),
        ),
        _masters_and_luschi(cells),
        *_regularised(cells, run),
        Finding(
            "with weight decay the minimum of a large batch looks flatter on a line, though it tests worse",
            "Li et al. (2017), VGG-9",
            "10.2 % error against 6.0 %",
            "not run: it needs weight decay and cuts through the loss",
            "cannot tell",
        ),
    ]
    return found


def _worse(claim: str, source: str, published: str, values: Sequence[float]) -> Finding:
    return Finding(claim, source, published, _points(values), below_zero(_whole(values)))


def _as_well(
    claim: str, source: str, published: str, groups: Mapping[str, Sequence[float]], any_of: bool = False
) -> Finding:
    """Not worse by half a point or more: every group, or any of them."""
    verdicts = [_not_worse(values) for values in groups.values()]
    ours = "; ".join(f"{name} {_points(values)}" for name, values in groups.items())
    first: Verdict = "agrees" if any_of else "differs"
    last: Verdict = "differs" if any_of else "agrees"
    verdict: Verdict = first if first in verdicts else last if set(verdicts) == {last} else "cannot tell"
    return Finding(f"{claim}, to within half a point", source, published, ours, verdict)


def _not_worse(values: Sequence[float]) -> Verdict:
    interval = mean_interval(_whole(values))
    if interval is None or interval[0] <= -MARGIN <= interval[1]:
        return "cannot tell"
    return "agrees" if interval[0] > -MARGIN else "differs"


def _whole(values: Sequence[float]) -> Sequence[float]:
    """Nothing, where runs diverged: those that are left would say too much."""
    return values if all(map(math.isfinite, values)) else ()


def _points(values: Sequence[float]) -> str:
    known = [100 * value for value in values if math.isfinite(value)]
    lost = f"{len(values) - len(known)} of {len(values)} diverged" if len(known) < len(values) else ""
    text = f"{show(known, 2)} points" if known else "" if lost else "not run"
    return ", ".join(filter(None, (text, lost)))


def _sharper(cells: Cells, run: str) -> list[Finding]:
    found = []
    for name, words, published in (
        ("sharpness", "is at a sharper place, by Keskar's measure", "9 to 220 times as sharp"),
        ("eigenvalue", "has a larger largest eigenvalue of the Hessian", "more and larger positive eigenvalues"),
    ):
        logs = {way: cells.large_less_small(way, "steps", name, of_logarithms=True) for way in ("fixed", "tuned")}
        ours = "; ".join(f"{SPELLED[way]} {_ratio_told(values)}" for way, values in logs.items())
        claim = f"after equal steps the large batch {words} {run}"
        verdict = below_zero([-value for value in logs["fixed"]])
        found.append(Finding(f"{claim}, at one rate", f"{KESKAR}, Adam", published, ours, verdict))
        if name == "sharpness":
            far = below_zero([math.log(PUBLISHED_RATIO) - value for value in logs["fixed"]])
            claim = f"after equal steps the large batch is at least 9 times as sharp {run}, at one rate"
            found.append(Finding(claim, f"{KESKAR}, Adam", published, ours, far))
            tuned = below_zero([-value for value in logs["tuned"]])
            claim = f"after equal steps the large batch is at a sharper place also with re-tuned rates {run}"
            found.append(Finding(claim, f"{KESKAR}, which does not re-tune", published, ours, tuned))
    return found


def _switch_findings(cells: Cells, run: str) -> list[Finding]:
    def differences(switch: str) -> list[float]:
        alone = cells.by_seed(("plain", cells.sizes[0], "fixed", "samples"), "test_accuracy")
        return [
            result["end"]["test_accuracy"] - alone[seed]
            for (kind, seed), result in cells.switches.items()
            if kind == switch and seed in alone and result["end"]
        ]

    return [
        _as_well(claim, SHEN, "recovers; not trapped", {"after the switch": differences(switch)})
        for switch, claim in (
            (
                "large, then small",
                "a large-batch start does not trap the model: small batches then come to what they come to from the "
                f"beginning in as many samples {run}",
            ),
            (
                "large, then a larger rate",
                "a large-batch start does not trap the model: at a linearly scaled rate it then comes to what small "
                f"batches come to from the beginning in as many samples {run}",
            ),
        )
    ]


def _masters_and_luschi(cells: Cells) -> Finding:
    spots = sweet_spot(cells, "samples")
    interval = mean_interval(spots)
    verdict: Verdict = "cannot tell"
    if interval and (interval[0] > 5 or interval[1] < 1):
        verdict = "differs"
    elif interval and interval[0] >= 1 and interval[1] <= 5:
        verdict = "agrees"
    return Finding(
        "of the sizes tested, one between 2 and 32 tests best in equal samples with re-tuned rates, by test "
        f"{cells.tuned_by} ({cells.optimizer}; from {cells.sizes[0]:,} to {cells.sizes[-1]:,})",
        "Masters and Luschi (2018), by accuracy",
        "best between 2 and 32",
        size_text(spots) if spots else "not run at all sizes",
        verdict,
    )


def _regularised(cells: Cells, run: str) -> list[Finding]:
    """How dropout, batch norm and early stopping change the gap between large and small, at one rate in equal steps."""
    by_seed = {kind: _gap_by_seed(cells, kind, "test_accuracy") for kind in ("plain", "dropout", "batch norm")}
    by_seed["early stopping"] = _gap_by_seed(cells, "plain", "stopped_accuracy")
    found = []
    for kind in ("dropout", "batch norm", "early stopping"):
        seeds = [seed for seed in by_seed[kind] if seed in by_seed["plain"]]
        if not seeds:
            continue
        with_it, without = ([by_seed[k][seed] for seed in seeds] for k in (kind, "plain"))
        change = [a - b for a, b in zip(with_it, without, strict=True)]
        remains, less = below_zero(with_it), below_zero([-value for value in change])
        verdict: Verdict = "cannot tell"
        if below_zero(without) == "agrees":  # otherwise there is nothing to reduce
            both = {remains, less}
            verdict = "differs" if "differs" in both else "agrees" if both == {"agrees"} else "cannot tell"
        found.append(
            Finding(
                f"{kind} reduces by how much a large batch tests worse at one rate in equal steps, but not to 0 {run}",
                f"{KESKAR}, of data augmentation and the like",
                "reduced, not removed",
                f"{_points(with_it)} with it, {_points(without)} without; change {_points(change)}",
                verdict,
            )
        )
    return found


def _gap_by_seed(cells: Cells, kind: str, name: str) -> dict[int, float]:
    large, small = (cells.by_seed((kind, cells.sizes[k], "fixed", "steps"), name) for k in (-1, 0))
    return {seed: large[seed] - small[seed] for seed in large if seed in small}


def _ratio_told(logs: Sequence[float]) -> str:
    interval = mean_interval(logs)
    if not logs:
        return "not run, or diverged"
    text = f"{math.exp(mean(logs)):.2g} times"
    return text if interval is None else f"{text} ({math.exp(interval[0]):.2g} to {math.exp(interval[1]):.2g})"
