"""What is taught of saddles, plateaus and ravines, held against the descents on them."""

import math
from collections.abc import Mapping, Sequence
from statistics import mean

import numpy as np

from ..experiment import Finding, Result, Verdict
from ..over_seeds import below_zero, mean_interval, show, within
from .landscapes import MOMENTUM, SaddleSurface

NG = "A. Ng, Deep Learning (2017), course 2"
GE = "R. Ge, F. Huang, C. Jin, Y. Yuan, Escaping From Saddle Points (COLT 2015)"
DAUPHIN = "Y. Dauphin et al., Identifying and attacking the saddle point problem (NIPS 2014)"
POLYAK = "B. Polyak, Some methods of speeding up the convergence of iteration methods (1964)"
HINTON = "T. Tieleman, G. Hinton, Lecture 6.5: RMSProp (2012)"
KINGMA = "D. Kingma, J. Ba, Adam (ICLR 2015)"
TOLERANCE = 0.1  # of an exponent or a ratio: what a finite descent leaves of its beginning
MOST = 0.5  # the share above which descents count as leaving
Runs = Mapping[str, Sequence[Result]]


def claims(runs: Runs, sizes: Sequence[int], conditions: Sequence[float], limit: int) -> list[Finding]:
    """Those that the runs there are bear on.

    Args:
        runs: by optimizer.
        sizes: batch sizes that they were run at.
        conditions: condition numbers of the exact ravines.
        limit: steps at most.
    """
    found = {name: list(batch) for name, batch in runs.items() if name != "exact ravines"}
    exact = list(runs.get("exact ravines", []))
    findings = [*_leaving(found, sizes, limit), *_crossing(found, sizes, limit), *_following(found, sizes)]
    return findings + _along(found, limit) + (_exact(exact, conditions) if exact else [])


def steps_told(batch: Sequence[Result], surface: str, columns: int) -> list[str]:
    """Mean steps by batch size; "never" where no seed had half of its replicas there."""
    texts = []
    for i in range(columns):
        taken = [run[surface]["steps"][i] for run in batch]
        known = [float(steps) for steps in taken if steps is not None]
        missing = f" ({len(taken) - len(known)} of {len(taken)} never)" if known and len(known) < len(taken) else ""
        texts.append(show(known, 1) + missing if known else "never")
    return texts


def _leaving(found: Runs, sizes: Sequence[int], limit: int) -> list[Finding]:
    findings = []
    whole = [run["saddle"]["share"][-1] for batch in found.values() for run in batch]
    parts = {b: [run["saddle"]["share"][i] for run in found.get("SGD", [])] for i, b in enumerate(sizes)}
    if whole and all(parts.values()):
        known = [mean_interval(values) for values in parts.values()]
        verdict: Verdict = "cannot tell"
        if any(each and each[1] < MOST for each in known) or (max(whole) > 0 and all(known)):
            verdict = "differs"
        elif all(each and each[0] > MOST for each in known):
            verdict = "agrees"
        shares = ", ".join(f"{show(values, 2)} at {b:,}" for b, values in parts.items())
        ours = f"share of descents that leave within {limit:,} steps: exact {max(whole):g}, SGD {shares}"
        claim = "stochastic gradients leave a saddle that the full gradient never leaves from its stable manifold"
        findings.append(Finding(claim, f"{GE}; {DAUPHIN}", "with noise yes, without no", ours, verdict))
    for name, batch in found.items():
        slopes = [_slope(run["saddle"]["steps"], sizes) for run in batch]
        if None in slopes or not slopes:
            continue
        given = [slope for slope in slopes if slope is not None]
        if name == "SGD":
            growth = 2 * math.log(1 + batch[0]["rate"] * SaddleSurface().curvature)
            ratios = [slope * growth for slope in given]
            claim = "gradient descent leaves a saddle after a time logarithmic in the noise, ln(b)/(2·ln(1 + ηλ))"
            ours = f"slope over ln b as a share of it {show(ratios, 2)}"
            findings.append(
                Finding(claim, "the linearised step", "1", ours, within(ratios, (1 - TOLERANCE, 1 + TOLERANCE)))
            )
        claim = f"{name}: noisier gradients, of smaller batches, leave a saddle sooner"
        ours = f"{show([slope * math.log(2) for slope in given], 2)} steps for each doubling of the batch"
        findings.append(Finding(claim, GE, "they do", ours, below_zero([-slope for slope in given])))
    return findings


def _crossing(found: Runs, sizes: Sequence[int], limit: int) -> list[Finding]:
    findings = []
    plain = {run["seed"]: run["plateau"]["steps"] for run in found.get("SGD", [])}
    for name, source in (("RMSProp", HINTON), ("Adam", KINGMA)):
        for i, size in ((len(sizes), "the exact gradient"), (0, f"batches of {sizes[0]:,}")):
            pairs = [
                (run["plateau"]["steps"][i] or math.inf, plain[run["seed"]][i] or math.inf)
                for run in found.get(name, [])
                if run["seed"] in plain
            ]
            if not pairs:
                continue
            claim = f"{name} leaves a plateau sooner than gradient descent, with {size}"
            findings.append(_sooner(claim, f"{NG}; {source}", pairs, limit))
    return findings


def _sooner(claim: str, source: str, pairs: Sequence[tuple[float, float]], limit: int) -> Finding:
    """Pairs of steps; one that never ends has taken at least the limit, so that a verdict may still be certain."""
    published = "a ratio of steps below 1"
    if all(math.isfinite(a) and math.isfinite(b) for a, b in pairs):
        ratios = [math.log(a / b) for a, b in pairs]
        interval = mean_interval(ratios)
        span = f" ({math.exp(interval[0]):.3g} to {math.exp(interval[1]):.3g})" if interval else ""
        return Finding(claim, source, published, f"ratio {math.exp(mean(ratios)):.3g}{span}", below_zero(ratios))
    firsts, seconds = (sum(math.isinf(pair[side]) for pair in pairs) for side in (0, 1))
    least = [math.log(min(a, limit) / min(b, limit)) for a, b in pairs]
    # Cut at the limit, the ratio is a bound on the side of whichever never ends.
    verdict = below_zero(least) if 0 in (firsts, seconds) else "cannot tell"
    if (verdict == "agrees" and firsts) or (verdict == "differs" and seconds):
        verdict = "cannot tell"
    ours = f"within {limit:,} steps not there: {firsts} of {len(pairs)} seeds, gradient descent {seconds}"
    return Finding(claim, source, published, ours, verdict)


def _following(found: Runs, sizes: Sequence[int]) -> list[Finding]:
    logs, findings = np.log(sizes), []
    for name, batch in found.items():
        linear = name in ("SGD", "momentum")
        apart = [run["ravine"]["beside"][: len(logs)] for run in batch]
        slopes = [float(np.polyfit(logs, np.log(each), 1)[0]) for each in apart if min(each) > 0]
        if slopes:
            claim = f"{name}: larger batches follow the path of the full gradient more closely"
            published = "closer; in theory, exponent -0.5" if linear else "closer"
            verdict = within(slopes, (-0.5 - TOLERANCE, -0.5 + TOLERANCE)) if linear else below_zero(slopes)
            ours = f"distance from that path: exponent of b {show(slopes)}"
            findings.append(Finding(claim, NG, published, ours, verdict))
    return findings


def _along(found: Runs, limit: int) -> list[Finding]:
    plain = {run["seed"]: run["ravine"]["steps"][-1] for run in found.get("SGD", [])}
    pairs = [
        (run["ravine"]["steps"][-1] or math.inf, plain[run["seed"]] or math.inf)
        for run in found.get("momentum", [])
        if run["seed"] in plain
    ]
    if not pairs:
        return []
    claim = "momentum speeds descent along a ravine, rates tuned for each"
    return [_sooner(claim, f"{NG}; {POLYAK}", pairs, limit)]


def _exact(exact: Sequence[Result], conditions: Sequence[float]) -> list[Finding]:
    logs, findings = np.log(conditions), []
    for name, value, text in (
        ("SGD", 1.0, "gradient descent takes steps in proportion to the condition number"),
        ("momentum", 0.5, "heavy ball takes steps in proportion to the root of the condition number"),
    ):
        slopes = [float(np.polyfit(logs, np.log(run["taken"][name]), 1)[0]) for run in exact]
        claim = f"{text}, each at its best rate"
        ours = f"exponent {show(slopes)}"
        findings.append(
            Finding(claim, POLYAK, f"exponent {value:g}", ours, within(slopes, (value - TOLERANCE, value + TOLERANCE)))
        )
    across, along = ([math.log(run["swung"]["momentum"][i] / run["swung"]["SGD"][i]) for run in exact] for i in (0, 1))
    claim = "momentum damps the swinging across a ravine, at a rate where gradient descent swings"
    ours = (
        f"logarithm of the way across relative to gradient descent {show(across, 2)}; of what is left along the floor "
        f"{show(along, 2)}; as an average, β = {MOMENTUM:g}"
    )
    return [*findings, Finding(claim, f"{NG}; {POLYAK}", "below 0", ours, below_zero(across))]


def _slope(steps: Sequence[int | None], sizes: Sequence[int]) -> float | None:
    known = [float(taken) for taken in steps[: len(sizes)] if taken is not None]
    return float(np.polyfit(np.log(sizes), known, 1)[0]) if len(known) == len(sizes) else None
