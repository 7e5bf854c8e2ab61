"""How surely each estimator tells the gradient noise, and what it costs: `python benchmarks/estimators.py [--write]`.

Three networks on Fashion-MNIST, early in training (step 30) and late, at 64 and 512 samples. At rest: weights held
fixed, batches drawn with replacement from 8,192 samples whose every gradient has been seen, so that the true V and s
of what the batches are drawn from are known. In motion: the estimators that compare a step with those before it, in
the run itself, beside exact measurements of 2,048 samples at four of its steps.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import torch
from markdown import machine, write_page
from networks import TransformerBlock
from problems import fashion
from torch import Tensor, nn

from rightbatch.measurements import Measurement
from rightbatch.models import build_model
from rightbatch.noise import squared_norm
from rightbatch.noise.estimators.estimator import Estimator
from rightbatch.noise.methods import MeasuredModel, estimator, noise_settings

POPULATION, CHUNK = 8_192, 512
WITNESSES, WITNESSED_STEPS = 2_048, 4
EARLY_STEP = 30
SIZES = (64, 512)
ROUNDS, ROUND_S = 9, 0.02
AT_REST = (
    "per-example",
    "sketch",
    "sketch(probes=4)",
    "subset(subset=8)",
    "subset(subset=32)",
    "micro-batch(groups=4)",
    "micro-batch(groups=8)",
    "norm-layers",
)
IN_MOTION = (("successive", 1), ("successive", 8), ("optimizer-state", 1))  # with the steps between measurements
OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter], int], torch.optim.Optimizer]] = {
    "SGD, momentum 0.9": lambda p, b: torch.optim.SGD(p, lr=0.02 if b < 512 else 0.1, momentum=0.9),
    "Adam": lambda p, b: torch.optim.Adam(p, lr=1e-3),
}
SETTING, JUDGED = ("stage", "b", "true V/s", "estimator"), ("V̂/V", "sd", "ŝ/s", "sd")
Batch = tuple[Tensor, Tensor]


class ImageTransformer(nn.Module):
    """Two blocks over the 49 patches of 4 x 4 pixels of a grey image of 28 x 28."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.embed, self.place = nn.Linear(16, width), nn.Embedding(49, width)
        self.blocks = nn.Sequential(TransformerBlock(width), TransformerBlock(width))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        patches = x.reshape(-1, 7, 4, 7, 4).transpose(2, 3).flatten(3).flatten(1, 2)
        places = torch.arange(49, device=x.device).expand(len(x), -1)
        return self.head(self.norm(self.blocks(self.embed(patches) + self.place(places))).mean(1))


@dataclass(frozen=True)
class Network:
    """A network, for each batch size in motion the step that counts as late, and how many batches are drawn at rest."""

    name: str
    make: Callable[[], nn.Module]
    late_step: dict[int, int]
    batches: dict[int, int]


NETWORKS = (
    Network(
        "MLP 784-128-128-10", lambda: build_model("mlp", (1, 28, 28), 10), {64: 2000, 512: 1000}, {64: 400, 512: 100}
    ),
    Network("CNN, 16 and 64 channels", lambda: build_model("cnn", (1, 28, 28), 10), {64: 600}, {64: 100, 512: 24}),
    Network("transformer, 2 blocks of width 48", ImageTransformer, {64: 600}, {64: 80, 512: 16}),
)


@dataclass(frozen=True)
class Spread:
    """Mean, its standard error, and standard deviation of a number over its true value."""

    mean: float
    error: float
    sd: float

    @classmethod
    def of(cls, values: Sequence[float], truth: float) -> "Spread":
        sd = statistics.stdev(values) / truth
        return cls(statistics.fmean(values) / truth, sd / sqrt(len(values)), sd)

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.error:.2f} | {self.sd:.2f}"

    @property
    def without_error(self) -> str:
        """For values that hang together, whose standard error says nothing."""
        return f"{self.mean:.2f} | {self.sd:.2f}"


def build(method: str, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> Estimator:
    settings = noise_settings(method)
    return estimator(settings.method, MeasuredModel(model, list(model.parameters()), optimizer, settings))


def differentiate(model: nn.Module, batch: Batch, estimators: Sequence[Estimator], size: int = 0) -> list[Measurement]:
    """Leave the mean gradient of a batch in the parameters, watched by estimators that want it cut alike."""
    x, y = batch
    b, groups = len(x), max((e.groups for e in estimators), default=1)
    for part_x, part_y in zip(x.split(size or -(-b // groups)), y.split(size or -(-b // groups)), strict=True):
        share = len(part_x) / b
        for one in estimators:
            one.arm(len(part_x))
        loss = nn.functional.cross_entropy(model(part_x), part_y)
        for one in estimators:
            one.verify(loss)
        (loss * share).backward()
        for one in estimators:
            one.take(len(part_x), share)
    for one in estimators:
        one.gather()
    found: list[Measurement] = []
    if estimators:
        norm2 = squared_norm(p.grad for p in model.parameters())
        found = [one.measurement(norm2, b) for one in estimators]
    for one in estimators:
        one.disarm()
    return found


def taken(model: nn.Module, batch: Batch, estimators: Sequence[Estimator], size: int = 0) -> list[Measurement]:
    """The same, and no gradient left."""
    found = differentiate(model, batch, estimators, size)
    model.zero_grad()
    return found


class Benchmark:
    """One network with its data.

    Args:
        network: which.
        data: all samples.
    """

    def __init__(self, network: Network, data: Batch) -> None:
        self.network = network
        self.data = data
        self.random = torch.Generator().manual_seed(1)
        self.population = self.drawn(POPULATION)
        self.weights: dict[str, dict[str, Tensor]] = {}
        has_norms = any(isinstance(m, nn.LayerNorm) for m in network.make().modules())
        self.methods = [m for m in AT_REST if m != "norm-layers" or has_norms]
        self.plain_s: dict[int, float] = {}
        self.costs = {b: self._costs(b) for b in SIZES}

    def drawn(self, samples: int, of: Batch | None = None) -> Batch:
        """Samples drawn at random with replacement."""
        x, y = of or self.data
        rows = torch.randint(len(x), (samples,), generator=self.random)
        return x[rows], y[rows]

    def in_motion(self) -> Iterator[str]:
        """Train by each optimizer; the rows of the table of estimators that need motion."""
        for b, late in self.network.late_step.items():
            for name, make_optimizer in OPTIMIZERS.items():
                torch.manual_seed(0)
                model = self.network.make()
                optimizer = make_optimizer(model.parameters(), b)
                ways = {
                    method + (f", every {every}th step" if every > 1 else ""): (build(method, model, optimizer), every)
                    for method, every in IN_MOTION
                    if method != "optimizer-state" or name == "Adam"
                }
                windows = {"early": range(EARLY_STEP - 10, EARLY_STEP + 30), "late": range(late - 200, late)}
                truth: dict[str, list[Measurement]] = {stage: [] for stage in windows}
                found: dict[tuple[str, str], list[Measurement]] = {(s, w): [] for s in windows for w in ways}
                for step in range(late):
                    if step == EARLY_STEP:
                        self._keep("early", model, b, name)
                    for stage, window in windows.items():
                        if step in window[:: len(window) // WITNESSED_STEPS]:
                            truth[stage] += taken(model, self.drawn(WITNESSES), [build("per-example", model)], CHUNK)
                    due = [way for way, (_, every) in ways.items() if step % every == 0]
                    seen = differentiate(model, self.drawn(b), [ways[way][0] for way in due])
                    for stage in (stage for stage, window in windows.items() if step in window):
                        for way, measurement in zip(due, seen, strict=True):
                            found[stage, way].append(measurement)
                    optimizer.step()
                    optimizer.zero_grad()
                self._keep("late", model, b, name)
                for (stage, way), one in found.items():
                    v = statistics.fmean(m.variance for m in truth[stage])
                    s = statistics.fmean(m.signal for m in truth[stage])
                    cost = self.costs[b].get(way)
                    yield (
                        f"| {name} | {stage} | {b} | {v / s:.0f} | {way} | "
                        f"{Spread.of([m.variance for m in one], v).without_error} | "
                        f"{Spread.of([m.signal for m in one], s).without_error} | {f'{cost:.2f}' if cost else ''} |"
                    )

    def _keep(self, stage: str, model: nn.Module, b: int, optimizer: str) -> None:
        if b == 64 and optimizer.startswith("SGD"):
            self.weights[stage] = {name: value.clone() for name, value in model.state_dict().items()}

    def at_rest(self) -> Iterator[str]:
        """The rows of the table of estimators that look at one batch."""
        model, methods = self.network.make(), self.methods
        estimators = {method: build(method, model) for method in methods}
        for stage, weights in self.weights.items():
            model.load_state_dict(weights)
            whole = [m for m in methods if m in ("per-example", "norm-layers")]
            true = dict(zip(whole, taken(model, self.population, [estimators[m] for m in whole], CHUNK), strict=True))
            for b, count in self.network.batches.items():
                found: dict[str, list[Measurement]] = {method: [] for method in methods}
                together = [[m for m in methods if estimators[m].groups == g] for g in (1, 4, 8)]
                for _ in range(count):
                    batch = self.drawn(b, self.population)
                    for group in together:
                        measured = taken(model, batch, [estimators[m] for m in group])
                        for method, measurement in zip(group, measured, strict=True):
                            found[method].append(measurement)
                for method in methods:
                    of = true.get(method, true["per-example"])
                    v, s = of.variance * (POPULATION - 1) / POPULATION, of.gradient_norm2
                    one, exact = found[method], found[method if method in true else "per-example"]
                    own = sqrt(
                        statistics.fmean((m.variance - e.variance) ** 2 for m, e in zip(one, exact, strict=True))
                    )
                    yield (
                        f"| {stage} | {b} | {v / s:.0f} | {method} | {Spread.of([m.variance for m in one], v)} | "
                        f"{own / v:.2f} | {Spread.of([m.signal for m in one], s)} | "
                        f"{1e3 * self.plain_s[b]:.1f} | {self.costs[b][method]:.2f} |"
                    )

    def _costs(self, b: int) -> dict[str, float]:
        """Seconds of a measured step over those of a plain one, medians of turns taken in one process."""
        model, batch = self.network.make(), self.drawn(b)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9, fused=True)
        kept = torch.optim.Adam(model.parameters(), lr=0.0)  # moments to be read
        for _ in range(3):
            differentiate(model, batch, [])
            kept.step()

        def seconds(watching: Sequence[Estimator], steps: int) -> float:
            begun_s = time.process_time()  # of this process alone, whatever else the machine does
            for _ in range(steps):
                differentiate(model, batch, watching)
                optimizer.step()
                optimizer.zero_grad()
            return (time.process_time() - begun_s) / steps

        ways: dict[str, list[Estimator]] = {"": []}
        for method in (*self.methods, *dict(IN_MOTION)):
            ways[method] = [build(method, model, kept)]
        for watching in ways.values():
            seconds(watching, 3)
        steps = max(1, round(ROUND_S / seconds([], 3)))
        rounds = []
        names = list(ways)
        for turn in range(ROUNDS):
            order = names[turn % len(names) :] + names[: turn % len(names)]
            rounds.append({name: seconds(ways[name], steps) for name in order})
        self.plain_s[b] = statistics.median(turn[""] for turn in rounds)
        return {name: statistics.median(turn[name] / turn[""] for turn in rounds) for name in names}


def main() -> None:
    """Run and print, or write to docs/."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="networks whose name contains this")
    parser.add_argument("--write", action="store_true", help="write docs/estimators.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    problem = fashion("mlp", 1)
    for network in NETWORKS:
        if options.only not in network.name:
            continue
        benchmark = Benchmark(network, (problem.x, problem.y))
        tables = {
            "in-motion": (("optimizer", *SETTING, *JUDGED, "measured"), benchmark.in_motion),
            "at-rest": ((*SETTING, *JUDGED[:2], "own error", *JUDGED[2:], "plain, ms", "measured"), benchmark.at_rest),
        }
        for kind, (columns, rows) in tables.items():
            lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
            for row in rows():
                print(row, flush=True)
                lines.append(row)
            if options.write:
                write_page(Path("docs/estimators.md"), __doc__, lines, f"{kind}-{network.name.split()[0].strip(',')}")
    if not options.write:
        print(machine())


if __name__ == "__main__":
    main()
