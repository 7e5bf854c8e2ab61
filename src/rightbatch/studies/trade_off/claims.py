"""What was seen of the trade-off between steps and samples, in words, and held against what has been published."""

import math
from collections.abc import Sequence

import numpy as np

from ..experiment import Finding, Verdict
from ..over_seeds import show, show_factor, within
from .curve import at_size, misfit
from .seen import WITHIN, TradeOffResults

MCCANDLISH = "McCandlish, Kaplan, Amodei 2018"
SHALLUE = "Shallue et al. 2019"

NEAR = (-math.log(1.25), math.log(1.25))  # factors taken as 1
SMALL_FACTOR = (-math.log(3), math.log(3))
ABOVE = (0.0, math.inf)
LINEAR = (0.75, 1.25)  # exponents of b taken as 1
LESS = (-math.inf, 0.75)
FEW_STEPS = 10
PERFECT, NONE = (-1.25, -0.75), (-0.25, 0.25)  # exponents taken as -1 and as 0


def findings(seen: TradeOffResults) -> list[Finding]:
    """Every claim, also where it cannot be determined."""
    return [_curve(seen), _twice(seen), *_noise(seen), *_rates(seen), _regimes(seen), _time(seen)]


def in_words(seen: TradeOffResults) -> list[str]:
    """Paragraphs on what was seen."""
    missed = sum(steps is None for steps in seen.steps_of.values())
    edge = sum(not result["enclosed"] for result in seen.results if result["steps"] is not None)
    words = []
    if seen.curve:
        words.append(
            f"Critical batch {show_factor(seen.criticals)}, at which {2 * seen.curve.least_steps:,.0f} steps and "
            f"{2 * seen.curve.least_samples:,.0f} samples are twice their least. Noise scale "
            f"{show_factor(seen.noises)}."
            if seen.noises
            else f"Critical batch {show_factor(seen.criticals)}; the noise scale is not known."
        )
    elif seen.sizes:
        words.append("No critical batch can be determined from the sizes that were run.")
    if seen.fastest:
        low, high = seen.fast_range
        theory = f"; theory says {seen.fastest_in_theory:,.0f}" if seen.fastest_in_theory else ""
        words.append(
            f"Least time at batch {seen.fastest:,}, {seen.seconds(seen.fastest):.3g} s; within 10 % of it from {low:,} "
            f"to {high:,}{theory}."
        )
    if seen.sizes and seen.steps(seen.sizes[-1]) < FEW_STEPS:
        words.append(
            f"The largest batch needs {seen.steps(seen.sizes[-1]):.2g} steps: a target so near hardly tells a curve. "
            "Ask for more, by less slack or a longer reference run."
        )
    if missed:
        words.append(f"{missed} of {len(seen.steps_of)} runs did not reach the target at any rate and are omitted.")
    if edge:
        words.append(f"In {edge} runs the best rate is the last that was tried.")
    return words


def row(seen: TradeOffResults, size: int) -> tuple[str, ...]:
    """A line of the table: size, runs, rate, steps, those of the curve, samples, seconds."""
    known = [steps for (b, _), steps in seen.steps_of.items() if b == size and steps is not None]
    return (
        f"{size:,}",
        f"{len(known)}",
        f"{seen.rate(size):.3g}",
        show_factor(known),
        f"{seen.curve.steps(size):,.0f}" if seen.curve else "",
        f"{seen.steps(size) * size:,.0f}",
        f"{seen.seconds(size):.3g}",
    )


def _curve(seen: TradeOffResults) -> Finding:
    residuals, ours, verdicts = seen.residuals, "no seed has a curve at all sizes", list[Verdict]()
    if len(residuals):
        means = residuals.mean(0)
        verdicts = [within(list(column), NEAR) for column in residuals.T]
        worst = int(np.abs(means).argmax())
        ours = (
            f"mean residuals of log S {_rms(means):.3f} (rms over sizes), the farthest "
            f"{show(list(residuals[:, worst]), 2)} at batch {seen.sizes[worst]:,}"
        )
        ratio, most = misfit(residuals)
        if not math.isnan(ratio):
            than = "more" if ratio > most else "no more"
            scatter = _rms(residuals - means) * math.sqrt(len(residuals) / (len(residuals) - 1))
            ours += f"; {than} than the scatter over seeds of {scatter:.3f} explains (F {ratio:.1f}, 95 % {most:.1f})"
    claim = "steps and samples to a target follow (S/S_min - 1)(E/E_min - 1) = 1, within 25 % at every batch size"
    return Finding(claim, f"{MCCANDLISH}, eq. 2.11", "fits well", ours, _all(verdicts))


def _twice(seen: TradeOffResults) -> Finding:
    """Steps at B_crit over those of the largest batch, samples over those of the smallest; by the curve a bit less."""
    steps, samples, off = [], [], []
    for seed, curve in seen.curves.items():
        sizes, needed = seen.reached(seed)
        if sizes == seen.sizes and sizes[0] < curve.critical < sizes[-1]:
            there = at_size(sizes, [s / curve.steps(b) for b, s in zip(sizes, needed, strict=True)], curve.critical)
            there *= curve.steps(curve.critical)
            steps.append(there / needed[-1])
            samples.append(there * curve.critical / (needed[0] * sizes[0]))
            off.append(
                (
                    math.log(steps[-1] * curve.steps(sizes[-1]) / curve.steps(curve.critical)),
                    math.log(samples[-1] * curve.steps(sizes[0]) * sizes[0] / (2 * curve.least_samples)),
                )
            )
    verdict = _all([within([pair[k] for pair in off], NEAR) for k in (0, 1)])
    ours = "B_crit does not lie between the sizes"
    if steps and seen.curve:
        finite = (
            2 * seen.curve.least_steps / seen.curve.steps(seen.sizes[-1]),
            2 * seen.curve.least_samples / (seen.curve.steps(seen.sizes[0]) * seen.sizes[0]),
        )
        ours = (
            f"steps {show(steps, 2)} times those of batch {seen.sizes[-1]:,} (curve: {finite[0]:.2f}), samples "
            f"{show(samples, 2)} times those of batch {seen.sizes[0]:,} (curve: {finite[1]:.2f})"
        )
    return Finding("at b = B_crit steps and samples are both twice their least", MCCANDLISH, "2 and 2", ours, verdict)


def _noise(seen: TradeOffResults) -> list[Finding]:
    ratios = [seen.noise[seed] / curve.critical for seed, curve in seen.curves.items() if seed in seen.noise]
    logs = [math.log(ratio) for ratio in ratios]
    ours = f"noise scale {show_factor(seen.noises)}, B_crit {show_factor(seen.criticals)}, ratio {show_factor(ratios)}"
    if not ratios:
        ours = "noise scale or critical batch could not be determined"
    return [
        Finding(
            "the noise scale tr Σ/‖g‖², averaged over the way, predicts the critical batch within a factor of 3",
            MCCANDLISH,
            "within a small factor",
            ours,
            within(logs, SMALL_FACTOR),
        ),
        Finding(
            "the noise scale tr Σ/‖g‖² overestimates the critical batch",
            MCCANDLISH,
            "it does on MNIST, where it is about 900",
            ours,
            within(logs, ABOVE),
        ),
    ]


def _rates(seen: TradeOffResults) -> list[Finding]:
    curve, found = seen.curve, []
    below, above = (0.0, curve.critical / 2) if curve else (0.0, 0.0), (curve.critical if curve else 0.0, math.inf)
    for claim, (low, high), limits, published in (
        ("well below B_crit (at most half of it) the best learning rate grows linearly with b", below, LINEAR, "1"),
        ("above B_crit the best learning rate grows less than linearly with b", above, LESS, "less than 1, towards 0"),
    ):
        exponents = seen.exponents("rate", low, high) if curve else []
        ours = "fewer than two batch sizes there"
        if curve and exponents:
            there = [b for b in seen.sizes if low <= b <= high]
            # ε(b) = ε_max/(1 + B_crit/b) is proportional to 1/S.
            theory = -np.polyfit(np.log(there), [math.log(curve.steps(b)) for b in there], 1)[0]
            ours = (
                f"exponent {show(exponents, 2)} from {there[0]:,} to {there[-1]:,} (ε_max/(1 + B_crit/b): {theory:.2f})"
            )
        found.append(Finding(claim, f"{MCCANDLISH}; {SHALLUE}", published, ours, within(exponents, limits)))
    return found


def _regimes(seen: TradeOffResults) -> Finding:
    ours, verdicts = "fewer than four batch sizes", list[Verdict]()
    if len(seen.sizes) >= 4:
        first, last = seen.sizes[:2], seen.sizes[-2:]
        small, large = seen.exponents("steps", *first), seen.exponents("steps", *last)
        verdicts = [within(small, PERFECT), within(large, NONE)]
        if small and large:
            ours = (
                f"exponent of b in the steps {show(small, 2)} from {first[0]:,} to {first[1]:,}, {show(large, 2)} from "
                f"{last[0]:,} to {last[1]:,}"
            )
    return Finding(
        "doubling the batch first halves the steps, then saves less, then nothing at all",
        SHALLUE,
        "perfect scaling, diminishing returns, none: exponent -1 rising to 0",
        ours,
        _all(verdicts),
    )


def _time(seen: TradeOffResults) -> Finding:
    """Time at the size that theory picks, between the sizes that were run, over the least of that seed."""
    ours, logs, best = "critical batch or step time could not be determined", [], seen.fastest_in_theory
    if best and seen.clock and seen.fastest:
        times = []
        for seed in seen.seeds:
            sizes, steps = seen.reached(seed)
            if sizes == seen.sizes:
                seconds = [s * seen.step_s(b) for b, s in zip(sizes, steps, strict=True)]
                times.append(at_size(sizes, seconds, best) / min(seconds))
        logs = [math.log(ratio) for ratio in times]
        low, high = seen.fast_range
        ours = (
            f"sqrt(B_crit·n½) {best:,.0f} with n½ {seen.clock.half_performance:,.0f}; least at {seen.fastest:,}, "
            f"within 10 % from {low:,} to {high:,}; time at the former over the least {show_factor(times)}"
        )
    verdict = within(logs, (-math.inf, math.log(WITHIN)))
    claim = "the batch sqrt(B_crit·n½) takes at most 10 % more time than the best, steps taking t0 + t1·b"
    return Finding(claim, f"{MCCANDLISH}, with Hockney's step time", "at most 1.1", ours, verdict)


def _rms(values: "np.ndarray | Sequence[float]") -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _all(verdicts: Sequence[Verdict]) -> Verdict:
    """Of a claim that says several things at once."""
    if "differs" in verdicts:
        return "differs"
    return "agrees" if verdicts and "cannot tell" not in verdicts else "cannot tell"
