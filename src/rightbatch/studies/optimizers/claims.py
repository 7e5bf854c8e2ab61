"""What is published on optimizers, batch sizes and rates, held against the runs."""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean

import numpy as np

from ..experiment import Finding, Result, Verdict
from ..over_seeds import below_zero, show, show_factor, within
from .arms import AUTOMATIC, AVERAGED, BETA, STARTS

MALLADI = "S. Malladi et al., On the SDEs and Scaling Rules for Adaptive Gradient Algorithms (NeurIPS 2022)"
GRANZIOL = "D. Granziol, S. Zohren, S. Roberts, Learning Rates as a Function of Batch Size (JMLR 2022)"
GOYAL = "P. Goyal et al., Accurate, Large Minibatch SGD (2017)"
SHALLUE = "C. Shallue et al., Measuring the Effects of Data Parallelism on Neural Network Training (JMLR 2019)"
SURGE = "S. Li et al., Surge Phenomenon in Optimal Learning Rate and Batch Size Scaling (NeurIPS 2024)"
MAREK = "M. Marek et al., Small Batch Size Training for Language Models (2025)"
TUNED_BY = {  # what an optimizer without a rate is compared with, who says what of it
    "schedule-free SGD": ("momentum", "A. Defazio et al., The Road Less Scheduled (2024)", "as good, its rate tuned"),
    "schedule-free AdamW": ("Adam", "A. Defazio et al., The Road Less Scheduled (2024)", "as good, its rate tuned"),
    "Prodigy": ("Adam", "K. Mishchenko, A. Defazio, Prodigy (ICML 2024)", "close to tuned Adam"),
    "DoG": ("SGD", "M. Ivgi, O. Hinder, Y. Carmon, DoG is SGD's Best Friend (ICML 2023)", "close to tuned SGD"),
    "DoWG": ("SGD", "A. Khaled, K. Mishchenko, C. Jin, DoWG Unleashed (NeurIPS 2023)", "competitive in practice"),
    "automatic step": ("Adam", "our aim", "as good as tuned Adam"),
}
SLOPE = 0.1  # how far an exponent may lie from the claimed one
POINT = 0.01  # of accuracy: what counts as close
HALF_FACTOR = math.log(2) / 2  # what rates a factor of 2 apart resolve
SAME = 1e-6  # relative, of losses in double precision that rounding alone sets apart


class Runs:
    """The results by optimizer and size, then seed.

    Args:
        results: of the trials.
        sizes: batch sizes.
    """

    def __init__(self, results: Iterable[Result], sizes: Sequence[int]) -> None:
        self.sizes = sizes
        self.cells: dict[tuple[str, int], dict[int, Result]] = {}
        for result in results:
            self.cells.setdefault((str(result["optimizer"]), int(result["size"])), {})[int(result["seed"])] = result

    def values(self, name: str, size: int, key: str) -> dict[int, float]:
        """By seed, where there is one."""
        return {seed: run[key] for seed, run in self.cells.get((name, size), {}).items() if run.get(key) is not None}

    @property
    def rates(self) -> list[str]:
        """Tuned optimizers with a rate at any size."""
        return [name for name in STARTS if any(self.values(name, size, "best") for size in self.sizes)]

    def slopes(self, name: str) -> list[float]:
        """Exponent of the batch size in the best rate, of each seed that has all sizes."""
        by_size = [self.values(name, size, "best") for size in self.sizes]
        whole = set.intersection(*(set(each) for each in by_size))
        logs = np.log(self.sizes)
        return [float(np.polyfit(logs, np.log([each[seed] for each in by_size]), 1)[0]) for seed in sorted(whole)]

    def edges(self, name: str) -> int:
        """Runs whose best rate was the last tried."""
        return sum(
            not run.get("enclosed", True) for size in self.sizes for run in self.cells.get((name, size), {}).values()
        )

    def ratios(self, name: str, other: str, size: int, key: str) -> dict[int, float]:
        """Logarithm of the ratio of a value of two optimizers, by seed."""
        ours, theirs = self.values(name, size, key), self.values(other, size, key)
        return {
            seed: math.log(ours[seed] / theirs[seed]) for seed in ours if theirs.get(seed, 0) > 0 and ours[seed] > 0
        }


def claims(sizes: Sequence[int], runs: Runs) -> list[Finding]:
    """Those that the runs there are bear on."""
    return [*_scaling(runs), *_notations(runs), *_advantage(sizes, runs), *_free(sizes, runs)]


def _scaling(runs: Runs) -> list[Finding]:
    findings = []
    for name, value, source in (
        ("SGD", 1.0, f"{GOYAL}; {GRANZIOL}"),
        ("momentum", 1.0, f"{GOYAL}; {GRANZIOL}"),
        ("RMSProp", 0.5, f"{MALLADI}; {GRANZIOL}"),
        ("Adam", 0.5, f"{MALLADI}; {GRANZIOL}"),
    ):
        slopes = runs.slopes(name)
        if not slopes:
            continue
        rule = "linearly" if value == 1 else "with the root of the batch"
        edges = f"; {edges} rates at the edge of those tried" if (edges := runs.edges(name)) else ""
        kept = ", betas left alone" if value == 0.5 else ""
        ours = f"exponent of b {show(slopes, 2)}{kept}{edges}"
        verdict = within(slopes, (value - SLOPE, value + SLOPE))
        findings.append(Finding(f"the best rate of {name} grows {rule}", source, f"exponent {value:g}", ours, verdict))
        if name in ("SGD", "momentum"):
            rules = [within(slopes, (each - SLOPE, each + SLOPE)) for each in (1.0, 0.5)]
            neither: Verdict = (
                "agrees" if set(rules) == {"differs"} else "differs" if "agrees" in rules else "cannot tell"
            )
            claim = f"{name}: neither linear nor root scaling finds the best rate at other batch sizes"
            findings.append(Finding(claim, SHALLUE, "neither holds in general", ours, neither))
    plain, adam = runs.slopes("SGD"), runs.slopes("Adam")
    if plain and len(plain) == len(adam):
        apart = [a - b for a, b in zip(adam, plain, strict=True)]
        claim = "the best rate of Adam grows more slowly with the batch than that of SGD"
        ours = f"difference of exponents {show(apart, 2)}"
        findings.append(Finding(claim, GRANZIOL, "0.5 against 1", ours, below_zero(apart)))
    last, before = (runs.values("Adam", size, "best") for size in (runs.sizes[-1], runs.sizes[-2]))
    falls = [math.log(last[seed] / before[seed]) for seed in last if seed in before]
    if falls:
        verdict = "agrees" if below_zero(falls) == "agrees" else "cannot tell"
        ours = (
            f"from {runs.sizes[-2]:,} to {runs.sizes[-1]:,} by a factor of {show_factor([math.exp(f) for f in falls])}"
        )
        ours += "" if verdict == "agrees" else "; a peak may lie beyond"
        claim = "Adam's best rate peaks at some batch size and falls beyond"
        findings.append(Finding(claim, SURGE, "a peak at the noise scale", ours, verdict))
    return findings


def _notations(runs: Runs) -> list[Finding]:
    findings = []
    apart = [
        run["apart"] for size in runs.sizes for run in runs.cells.get(("momentum", size), {}).values() if "apart" in run
    ]
    if apart:
        claim = "momentum as a sum and as an average from zero give the same path, at a rate 1/(1 - β) times larger"
        ours = f"losses differ relatively by {max(apart):.1e} at most, in {len(apart)} pairs of runs"
        verdict: Verdict = "agrees" if max(apart) < SAME else "differs"
        findings.append(Finding(claim, "the recursions", "exactly", ours, verdict))
    ratios = _over_sizes([runs.ratios(AVERAGED, "momentum", size, "best") for size in runs.sizes])
    if ratios:
        claim = "a rate meant for averaged momentum (torch: dampening of β) is 1/(1 - β) times that for torch's default"
        ours = f"ratio of best rates {show_factor([math.exp(each) for each in ratios])}"
        limits = (-math.log(1 - BETA) - HALF_FACTOR, -math.log(1 - BETA) + HALF_FACTOR)
        findings.append(Finding(claim, "the recursions", f"{1 / (1 - BETA):g}", ours, within(ratios, limits)))
    return findings


def _advantage(sizes: Sequence[int], runs: Runs) -> list[Finding]:
    findings = []
    for name, source, published in (
        ("momentum", SHALLUE, "no gain from momentum at small batches, gain at large ones"),
        ("Adam", MAREK, "at small batches plain SGD does as well"),
    ):
        small, large = (runs.ratios(name, "SGD", size, "loss") for size in (sizes[0], sizes[-1]))
        seeds = sorted(set(small) & set(large))
        if seeds:
            grows = [large[seed] - small[seed] for seed in seeds]
            of = [show_factor([math.exp(each[seed]) for seed in seeds]) for each in (small, large)]
            ours = f"training loss relative to SGD {of[0]} at {sizes[0]:,}, {of[1]} at {sizes[-1]:,}"
            claim = f"what {name} gains over SGD, both tuned, grows with the batch"
            findings.append(Finding(claim, source, published, ours, below_zero(grows)))
    return findings


def _free(sizes: Sequence[int], runs: Runs) -> list[Finding]:
    findings = []
    for name, (tuned, source, published) in TUNED_BY.items():
        gaps, ratios = [], []
        for size in sizes:
            ours, theirs = (runs.values(each, size, "accuracy") for each in (name, tuned))
            gaps.append({seed: ours[seed] - theirs[seed] for seed in ours if seed in theirs})
            ratios.append(runs.ratios(name, tuned, size, "loss"))
        which = ", without averaging," if name in ("DoG", "DoWG") else ""
        claim = f"{name}{which} at its defaults does as well on test data as tuned {tuned}, to within a point"
        findings += _close(claim, source, published, _over_sizes(gaps), _over_sizes(ratios))
    best = _best(sizes, runs)
    own = runs.cells.get((AUTOMATIC, 0), {})
    there = [seed for seed in sorted(own) if seed in best and own[seed].get("accuracy") is not None]
    behind = [own[seed]["accuracy"] - best[seed]["accuracy"] for seed in there]
    lost = [
        math.log(own[seed]["loss"] / best[seed]["loss"]) for seed in there if own[seed]["loss"] and best[seed]["loss"]
    ]
    claim = f"{AUTOMATIC} does as well on test data as the best of all tuned optimizers and sizes, to within a point"
    return findings + _close(claim, "our aim", "as good", behind, lost)


def _close(claim: str, source: str, published: str, gaps: Sequence[float], ratios: Sequence[float]) -> list[Finding]:
    if not gaps:
        return []
    ours = f"accuracy {show([100 * gap for gap in gaps], 1)} points beside it"
    ours += f", training loss by a factor of {show_factor([math.exp(each) for each in ratios])}" if ratios else ""
    return [Finding(claim, source, published, ours, within(gaps, (-POINT, math.inf)))]


def _best(sizes: Sequence[int], runs: Runs) -> Mapping[int, Result]:
    """Of each seed the tuned run with the least training loss that has an accuracy."""
    best: dict[int, Result] = {}
    for name in STARTS:
        for size in sizes:
            for seed, run in runs.cells.get((name, size), {}).items():
                known = run.get("accuracy") is not None and run["loss"] is not None
                if known and (seed not in best or run["loss"] < best[seed]["loss"]):
                    best[seed] = run
    return best


def _over_sizes(by_size: Sequence[Mapping[int, float]]) -> list[float]:
    """The mean over the sizes, of each seed that has them all."""
    whole = set.intersection(*(set(each) for each in by_size))
    return [mean(each[seed] for each in by_size) for seed in sorted(whole)]
