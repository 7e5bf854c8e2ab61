"""Every batch rule on three problems over the same optimizer: `python benchmarks/rules.py [--quick] [--write]`.

The optimizer is SGD with momentum 0.9 and one constant learning rate a problem, from a coarse grid at a batch of 64;
rules that come with a step rule of the same name run with it. Everything else is each rule's default, or is written
with its name; TOTAL is the horizon, the samples given to schedules with an end. A run ends at the target or at
its cap, in processor seconds of one thread; without evaluation, with measuring. Medians over the seeds; a rule
that misses the target for most seeds says how far it came.
"""

import argparse
import json
import math
import multiprocessing
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path

import matplotlib
import torch
from markdown import machine, write_page
from problems import Problem, problems

import rightbatch
from rightbatch.decision import BatchSizeRule
from rightbatch.errors import RightbatchError
from rightbatch.probing import feature_spectrum
from rightbatch.report.drawing import STYLE, finish, log_axis
from rightbatch.report.saving import save_figure
from rightbatch.rules.batch_size import Replay, batch_size_rule

matplotlib.use("Agg")
from matplotlib import pyplot as plt

DOCS = Path(__file__).resolve().parents[1] / "docs"
MOMENTUM = 0.9
CHECKS_PER_EPOCH = 10
CHECK_SAMPLES = 2000  # of held-out samples
PROCESSES = 2
MOST_EPOCHS = 1000  # the cap in seconds ends a run before
MOST_POINTS = 400  # of a trajectory


@dataclass(frozen=True)
class Setting:
    """How a problem is run: learning rate, target for the loss, cap in seconds, schedules' epochs, samples used."""

    rate: float
    target: float
    most_s: float
    epochs: int
    samples: int | None = None


SETTINGS = {
    "a9a": Setting(rate=0.05, target=0.3255, most_s=2.5, epochs=10),
    "fashion-mlp": Setting(rate=0.03, target=0.37, most_s=6.0, epochs=6),
    "fashion-cnn": Setting(rate=0.02, target=0.45, most_s=12.0, epochs=4, samples=20_000),
}
QUICK = {"most_s": 0.1, "epochs": 2, "samples": 1000}

# What is run, by what it goes by; a recipe sets its own learning rate, from that of the problem.
GROUPS: dict[str, tuple[str, ...]] = {
    "Fixed": ("fixed(16)", "fixed(64)", "fixed(256)", "fixed(1024)"),
    "From measured noise": (
        "horizon",
        "sweet-spot",
        "big-batch",
        "big-batch(kappa=0.1)",
        "norm-test",
        "unbiased-norm-test",
        "inner-product-test",
        "augmented-test",
        "ad-ada-grad",
        "ddp-norm",
        "gradient-noise-scale",
        "goodput",
        "cabs",
        "dive-batch",
        "simi-grad",
        "interpolation",
    ),
    "Schedules": (
        "piecewise('0:32 20K:64 60K:128')",
        "growth(32, 512, over_samples=TOTAL)",
        "cyclic(32, 256, every_samples=10000)",
        "ada-batch(32, every_epochs=1)",
        "dont-decay(32, milestones=(1, 2, 3))",
        "seesaw(32, total_samples=TOTAL)",
        "geo-damp(32, every_epochs=1)",
        "ada-damp(32)",
        "rada-damp(32)",
        "plateau(32)",
        "orr(8, curvature=0.01)",
        "replay",
    ),
    "Around sweet-spot": (
        "bounded(min_size=64, max_size=128)",
        "memory-cap(max_size=128)",
        "hysteresis",
        "min-hold(steps=100)",
        "rounded",
        "whole-if-small",
        "ramp(initial=8, over_samples=20000)",
    ),
}
WITH_SPECTRUM = "interpolation"  # of the features, where the model is linear
OF_SWEET_SPOT = "replay"


@dataclass
class Result:
    """One run.

    Args:
        reached: whether the target was.
        samples, steps, seconds: to the target, or to the end.
        loss: the least one met.
        sizes: (samples consumed, batch size), thinned.
        refused: why the rule could not be run.
    """

    problem: str
    rule: str
    seed: int
    reached: bool = False
    samples: int = 0
    steps: int = 0
    seconds: float = 0.0
    loss: float = math.inf
    sizes: list[tuple[int, int]] = field(default_factory=list)
    refused: str = ""


@dataclass(frozen=True)
class Task:
    """One run to be made."""

    problem: str
    rule: str
    seed: int
    quick: bool

    @property
    def key(self) -> tuple[str, str, int]:
        return self.problem, self.rule, self.seed


def setting(name: str, quick: bool) -> Setting:
    return replace(SETTINGS[name], **QUICK) if quick else SETTINGS[name]


@cache
def problem_of(name: str, quick: bool) -> Problem:
    """The problem, cut to the samples wanted; held-out samples cut to what a check looks at."""
    (problem,) = problems([name], floors=False)
    samples = setting(name, quick).samples
    x, y = problem.x[:samples].clone(), problem.y[:samples].clone()
    check = (x, y) if problem.convex else (problem.check_x[:CHECK_SAMPLES], problem.check_y[:CHECK_SAMPLES])
    return replace(problem, x=x, y=y, check_x=check[0], check_y=check[1])


def batch_size_rule_of(task: Task, problem: Problem) -> BatchSizeRule:
    """The batch-size rule, with the horizon in numbers; the two that rest on something else are given it."""
    text = task.rule.replace("TOTAL", str(setting(task.problem, task.quick).epochs * len(problem.x)))
    if text == WITH_SPECTRUM:
        if not problem.convex:
            raise rightbatch.UnsupportedError("for convex models that fit their data exactly only")
        spectrum = feature_spectrum(problem.x)
        # The logistic loss is at most a quarter as curved as least squares, which cancels in m*.
        return batch_size_rule(f"interpolation({spectrum.beta}, {spectrum.lambda_1})")
    if text == OF_SWEET_SPOT:
        sizes = run(replace(task, rule="sweet-spot")).sizes
        changes = [here for here, before in zip(sizes, [(-1, 0), *sizes], strict=False) if here[1] != before[1]]
        return Replay(tuple(changes))
    return batch_size_rule(text)


def run(task: Task) -> Result:
    """Train until the target or the cap."""
    limit, problem = setting(task.problem, task.quick), problem_of(task.problem, task.quick)
    result = Result(*task.key)
    model = problem.make(task.seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=limit.rate, momentum=MOMENTUM)
    try:
        rule = batch_size_rule_of(task, problem)
        data = (problem.x, problem.y)
        auto = rightbatch.AutoBatch(model, optimizer, data, rule, seed=task.seed, epochs=MOST_EPOCHS)
        _train(auto, problem, limit, result)
    except RightbatchError as error:
        result.refused = str(error)
    result.sizes = _thinned(result.sizes)
    return result


def _train(auto: rightbatch.AutoBatch, problem: Problem, limit: Setting, result: Result) -> None:
    next_check, since = 0.0, time.process_time()
    for x, y in auto:
        auto.backward(problem.loss(auto.model(x), y))
        if not auto.step():
            continue
        if auto.samples % auto.train_samples:  # an epoch's last batch is what is left of it, whatever was wanted
            result.sizes.append((auto.samples - auto.last["batch_size"], auto.last["batch_size"]))
        spent = result.seconds + time.process_time() - since
        if auto.samples < next_check and spent < limit.most_s:
            continue
        next_check = auto.samples + auto.train_samples / CHECKS_PER_EPOCH
        result.seconds, result.samples, result.steps = spent, auto.samples, auto.steps
        result.loss = min(result.loss, problem.check(auto.model))
        result.reached = result.loss <= limit.target
        if result.reached or spent >= limit.most_s:
            return
        since = time.process_time()


def _thinned(sizes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Where the size changes; of many changes, every so manieth."""
    changes = [here for i, here in enumerate(sizes) if i in (0, len(sizes) - 1) or here[1] != sizes[i - 1][1]]
    return changes[:: math.ceil(len(changes) / MOST_POINTS)] if changes else []


def _begin() -> None:
    torch.set_num_threads(1)


def run_all(tasks: list[Task], keep: Path | None) -> Iterator[Result]:
    """Run the tasks in two processes; those that a file holds already are read from there."""
    done = []
    if keep is not None and keep.exists():
        done = [Result(**json.loads(line)) for line in keep.read_text(encoding="utf-8").splitlines()]
    known = {(result.problem, result.rule, result.seed) for result in done}
    yield from done
    with multiprocessing.get_context("spawn").Pool(PROCESSES, _begin) as pool:
        for result in pool.imap_unordered(run, [task for task in tasks if task.key not in known]):
            if keep is not None:
                with keep.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(result)) + "\n")
            yield result


def table(name: str, found: dict[tuple[str, str], list[Result]], limit: Setting) -> list[str]:
    """The rows of one problem."""
    problem = problem_of(name, limit.samples == QUICK["samples"])
    what = "training loss" if problem.convex else f"loss on {len(problem.check_x):,} held-out samples"
    lines = [
        f"### {problem.name}",
        "",
        f"{len(problem.x):,} samples; target: {what} of {limit.target:g}; learning rate {limit.rate:g}; "
        f"cap: {limit.most_s:g} s; horizon of schedules: {limit.epochs} epochs.",
        "",
        "| rule | seconds | samples | steps | mean batch | reached |",
        "|---|---|---|---|---|---|",
    ]
    for group, rules in GROUPS.items():
        lines.append(f"| *{group.lower()}* | | | | | |")
        for rule in rules:
            lines.append(_row(rule, found.get((name, rule), [])))
    return [*lines, "", f"![batch sizes on {problem.name}](figures/rules_{name}.svg)", ""]


def _row(rule: str, runs: list[Result]) -> str:
    if not runs:
        return f"| `{rule}` | not run | | | | |"
    if runs[0].refused:
        return f"| `{rule}` | refused: {runs[0].refused} | | | | |"
    reached = [result for result in runs if result.reached]
    count = f"{len(reached)} of {len(runs)}"
    middle = [result for result in runs if result.reached] if 2 * len(reached) > len(runs) else runs
    samples, steps, seconds, loss = (
        statistics.median(values)
        for values in zip(*((r.samples, r.steps, r.seconds, r.loss) for r in middle), strict=True)
    )
    batch = f"{samples / max(1, steps):.0f}"
    if 2 * len(reached) > len(runs):
        return f"| `{rule}` | {seconds:.2f} | {samples:,.0f} | {steps:,.0f} | {batch} | {count} |"
    return f"| `{rule}` | missed: {loss:.4f} after {seconds:.2f} | {samples:,.0f} | {steps:,.0f} | {batch} | {count} |"


def draw(name: str, found: dict[tuple[str, str], list[Result]]) -> plt.Figure:
    """Batch size against samples, a panel a group, the first seed."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name, "legend.fontsize": 7.5}):
        groups = {group: rules for group, rules in GROUPS.items() if group != "Fixed"}
        figure, axes = plt.subplots(1, len(groups), figsize=(16, 5.4), layout="constrained", sharex=True, sharey=True)
        colours = plt.get_cmap("tab20").colors
        runs = {key[1]: results[0] for key, results in found.items() if key[0] == name and results[0].sizes}
        most = max((size for result in runs.values() for _, size in result.sizes), default=64)
        last = max((samples for result in runs.values() for samples, _ in result.sizes), default=100)
        for panel, (group, rules) in zip(axes, groups.items(), strict=True):
            drawn = [rule for rule in rules if rule in runs]
            for i, rule in enumerate(drawn):
                samples, sizes = zip(*runs[rule].sizes, strict=True)
                dash = "-" if i % 2 == 0 else (0, (4, 1.5))
                begin = [max(1, s) for s in samples]
                panel.step(begin, sizes, where="post", color=colours[i % 20], label=rule, linestyle=dash, linewidth=1.3)
            log_axis(panel, "y", 1, 2 * most, base=10)
            log_axis(panel, "x", 30, 1.2 * max(100, last))
            panel.set_title(group, loc="left", fontsize=11)
            finish(panel, "samples", "batch size" if panel is axes[0] else "", legend=False)
            if drawn:
                panel.legend(loc="upper left", bbox_to_anchor=(0, -0.12), ncols=2)
        return figure


def main() -> None:
    """Run and print, or write to docs/."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--rules", nargs="+", help="only those whose text begins with one of these")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a thousand samples, one seed, a tenth of a second a run")
    parser.add_argument("--keep", type=Path, help="append every run to this file, and take from it those it holds")
    parser.add_argument("--write", action="store_true", help="write docs/rule_comparison.md and its figures")
    parser.add_argument("--draw", type=Path, help="write the figures, as PNG, to this folder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen = [rule for rules in GROUPS.values() for rule in rules]
    if options.rules:
        chosen = [rule for rule in chosen if rule.startswith(tuple(options.rules))]
    seeds = 1 if options.quick else options.seeds
    names = sorted(options.problems, key=lambda name: -SETTINGS[name].most_s)  # the longest first, to end together
    tasks = [Task(name, rule, seed, options.quick) for seed in range(seeds) for name in names for rule in chosen]
    found: dict[tuple[str, str], list[Result]] = {}
    for result in run_all(tasks, options.keep):
        found.setdefault((result.problem, result.rule), []).append(result)
        end = result.refused or f"{'reached' if result.reached else 'missed'} at {result.loss:.4f}"
        print(
            f"{result.problem}, {result.rule}, seed {result.seed}: {end}, {result.seconds:.2f} s, "
            f"{result.samples:,} samples, {result.steps:,} steps",
            flush=True,
        )
    for results in found.values():
        results.sort(key=lambda result: result.seed)
    lines = [line for name in options.problems for line in table(name, found, setting(name, options.quick))]
    print("\n".join(lines))
    for name in options.problems:
        if options.write or options.draw:
            figure = draw(name, found)
            if options.draw:
                figure.savefig(options.draw / f"rules_{name}.png", dpi=80)
            if options.write:
                save_figure(figure, DOCS / "figures" / f"rules_{name}.svg")
    if options.write:
        write_page(DOCS / "rule_comparison.md", __doc__, lines, "rules")
    else:
        print(machine())


if __name__ == "__main__":
    main()
