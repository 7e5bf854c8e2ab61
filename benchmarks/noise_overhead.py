"""What measuring the gradient noise costs: `python benchmarks/noise_overhead.py [--write]`.

`make peers` runs it in an environment of its own that also holds BackPACK and Opacus; without them it says which
columns are missing. `--only cnn2-128` runs the cases whose names begin so, `--device cuda` runs on a GPU.
"""

import argparse
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import count, pairwise
from multiprocessing import get_context
from pathlib import Path

import torch
from markdown import machine, write_page
from networks import GPT, LSTM, cnn2, cnn4, mlp, resnet18
from noise_steps import OWN, PACKAGES, PEERS, Default, Exact, Loop, Plain, Step, Work, missing, peers, start
from torch import nn

PAGE = Path(__file__).resolve().parents[1] / "docs" / "noise_overhead.md"
VISIT_S = 0.1  # steps of one kind at a stretch: long against the clock, short against what else the machine does
LEAST_ROUNDS, MOST_ROUNDS = 5, 25
SLOW = 2.0  # another library that takes longer than so many plain steps is timed in two rounds only
SLOW_ROUNDS = 2
MEASUREMENTS = 4  # of a run at the default setting, and two steps more, until it knows what they cost
LEAST_RUN_S, MOST_RUN_S = 5.0, 60.0


@dataclass(frozen=True)
class Case:
    """A network and a batch size. Samples are random; `tokens` > 0 means that many kinds of tokens."""

    name: str
    title: str
    make: Callable[[], nn.Module]
    samples: int
    shape: tuple[int, ...]
    tokens: int = 0

    def work(self, device: torch.device) -> Work:
        generator = torch.Generator().manual_seed(1)
        shape = (self.samples, *self.shape)
        if self.tokens:
            x, y = (torch.randint(0, self.tokens, shape, generator=generator) for _ in range(2))
        else:
            x = torch.randn(shape, generator=generator)
            y = torch.randint(0, 10, (self.samples,), generator=generator)
        return Work(self.make, x.to(device), y.to(device))


CASES = (
    Case("mlp-128", "MLP 784-512-512-10, 128 samples", mlp, 128, (784,)),
    Case("mlp-1024", "the same, 1024", mlp, 1024, (784,)),
    Case("cnn2-128", "CNN, 2 convolutions (32, 64) on 28 x 28, 128", cnn2, 128, (1, 28, 28)),
    Case("cnn2-512", "the same, 512", cnn2, 512, (1, 28, 28)),
    Case("cnn4-128", "CNN, 4 convolutions (16, 16, 32, 32) on 32 x 32, 128", cnn4, 128, (3, 32, 32)),
    Case("cnn4-512", "the same, 512", cnn4, 512, (3, 32, 32)),
    Case("resnet-64", "ResNet-18 with GroupNorm, 32 to 256 channels, on 32 x 32, 64", resnet18, 64, (3, 32, 32)),
    Case("gpt-16", "GPT, 4 layers, width 128, context 128, 16", GPT, 16, (128,), 256),
    Case("lstm-32", "LSTM, 2 layers, width 128, 64 steps, 32", LSTM, 32, (64,), 256),
)


def now_s(device: torch.device) -> float:
    """Time on the GPU once it is done; of this process alone with one thread; else on the wall."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif torch.get_num_threads() == 1:
        return time.process_time()
    return time.perf_counter()


@dataclass
class Timed:
    """A way to take steps, and what was seen of it."""

    step: Step
    device: torch.device
    steps: int = 1
    ratios: list[float] = field(default_factory=list)

    def visit(self) -> float:
        """Seconds per step of a few steps."""
        begun_s = now_s(self.device)
        for _ in range(self.steps):
            self.step()
        return (now_s(self.device) - begun_s) / self.steps

    def settle(self) -> float:
        """As many steps as a visit shall have; answers the seconds of one."""
        seconds = min(self.visit() for _ in range(2))
        self.steps = max(1, round(VISIT_S / seconds))
        return seconds


@dataclass
class Row:
    """What one case gave: by the name of a way, or why it has none."""

    case: Case
    plain_s: float = 0.0
    ratios: dict[str, list[float]] = field(default_factory=dict)
    amortised: tuple[float, float] = (1.0, 1.0)
    variances: dict[str, float] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    method: str = ""
    peaks: dict[str, float] = field(default_factory=dict)


def compare(case: Case, device: torch.device, seconds: float) -> Row:
    """Time all ways in turn, each visit between two of the plain step."""
    row, work = Row(case), case.work(device)
    plain = Timed(Plain(work), device)
    plain.step()
    plain_s = plain.settle()
    ways: list[Timed] = []
    slow: list[Timed] = []
    for kind in (*OWN, *PEERS):
        if kind in missing():
            continue
        step, variance, refusal = start(kind, work)
        if step is None:
            row.refusals[kind.name] = refusal
            continue
        row.variances[kind.name] = variance
        way = Timed(step, device)
        took_long = way.settle() > SLOW * plain_s
        (slow if took_long and kind in PEERS else ways).append(way)
        if isinstance(step, Default):
            row.method = step.meter.method
    plains: list[float] = []
    end_s = time.monotonic() + seconds
    for number in count():
        if number >= LEAST_ROUNDS and (time.monotonic() > end_s or number >= MOST_ROUNDS):
            break
        turn = number % len(ways)
        before = plain.visit()
        for way in ways[turn:] + ways[:turn] + (slow if number < SLOW_ROUNDS else []):
            took = way.visit()
            after = plain.visit()
            way.ratios.append(2 * took / (before + after))
            plains.append(after)
            before = after
    row.plain_s = statistics.median(plains)
    row.ratios = {way.step.name: way.ratios for way in ways + slow}
    row.amortised = amortised(work, device)
    return row


def amortised(work: Work, device: torch.device) -> tuple[float, float]:
    """A run at the default setting: the share of time that measuring adds, and the interval it has come to.

    1 + o/k: o is the median over the measured steps of what each took beyond its unmeasured neighbours, k the interval.
    """
    loop = Loop(work)
    times: list[float] = []
    marks: list[int] = []
    least_s, most_s = (time.monotonic() + seconds for seconds in (LEAST_RUN_S, MOST_RUN_S))
    while len(marks) < 2 or len(times) < marks[-1] + 3 or not _enough(marks, least_s, most_s):
        begun_s = now_s(device)
        loop()
        times.append(now_s(device) - begun_s)
        if loop.measured:
            marks.append(len(times) - 1)
    added = [
        times[mark] / statistics.mean((times[mark - 1], times[mark + 1])) - 1
        for mark in marks[1:]  # the first sets things up
    ]
    settled = marks[MEASUREMENTS:]
    apart = [after - before for before, after in pairwise(settled)] or [loop.auto.meter.interval.steps]
    interval = statistics.mean(apart)
    return 1 + statistics.median(added) / interval, interval


def _enough(marks: list[int], least_s: float, most_s: float) -> bool:
    now = time.monotonic()
    return now > most_s or (len(marks) >= MEASUREMENTS and now > least_s)


# Peak memory.


def peaks(case: Case, device: torch.device) -> dict[str, float]:
    """MB at the peak of two steps of each way, in a process forked for it from one that has only imported."""
    found = {}
    kinds = [kind for kind in (Plain, Default, Exact, *PEERS) if kind not in missing()]
    context = get_context("forkserver")
    context.set_forkserver_preload(["noise_overhead", *(p.split("-")[0] for p in PACKAGES.values())])
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
        for kind in kinds:
            peak = pool.submit(_peak_mb, CASES.index(case), kind, device, torch.get_num_threads()).result()
            if peak:
                found[kind.name] = peak
    return found


def _peak_mb(case: int, kind: type[Step], device: torch.device, threads: int) -> float:
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    before = _resident_mb()
    step, _, _ = start(kind, CASES[case].work(device))
    if step is None:
        return 0.0
    step()
    return torch.cuda.max_memory_allocated() / 1e6 if device.type == "cuda" else _resident_mb() - before


def _resident_mb() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


# The page.


def table(rows: list[Row]) -> list[str]:
    """Times; then memory; then what was refused, and how far the libraries agree."""
    ways = [kind.name for kind in (*OWN, *PEERS) if kind not in missing()]
    timed = [*ways[:2], Loop.name, *ways[2:]]
    lines = [f"| | plain, ms | {' | '.join(timed)} |", f"|---|---|{'---|' * len(timed)}"]
    lines += [f"| {row.case.title} | {1e3 * row.plain_s:.1f} | {' | '.join(_times(row, timed))} |" for row in rows]
    held = [name for name in ways if name not in (ways[2],)]
    lines += ["", f"| peak memory, MB | plain | {' | '.join(held)} |", f"|---|---|{'---|' * len(held)}"]
    for row in rows:
        cells = [f"{row.peaks[name]:.0f}" if name in row.peaks else "" for name in (Plain.name, *held)]
        lines.append(f"| {row.case.title} | {' | '.join(cells)} |")
    lines += ["", "The default method was:", ""]
    lines += [f"- {row.case.name}: {row.method}" for row in rows]
    refusals = [f"- {name}, {row.case.name}: {why}" for row in rows for name, why in row.refusals.items()]
    if refusals:
        lines += ["", "What was refused, and the library's words:", "", *refusals]
    worst = [f"{name} {error:.0e}" for name, error in _disagreement(rows)]
    lines += ["", f"Largest relative difference of V̂ from the exact one at the first step: {', '.join(worst)}."]
    return [*lines, "", f"{peers()}."]


def _times(row: Row, names: list[str]) -> Iterator[str]:
    for name in names:
        if name == Loop.name:
            ratio, interval = row.amortised
            yield f"**{ratio:.3f}**, every {interval:.3g}"
        elif name in row.refusals:
            yield "refuses"
        else:
            low, middle, high = _quartiles(row.ratios[name])
            yield f"**{middle:.2f}**, {low:.2f} to {high:.2f}"


def _quartiles(ratios: list[float]) -> tuple[float, float, float]:
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return low, middle, high


def _disagreement(rows: list[Row]) -> Iterator[tuple[str, float]]:
    for name in (Default.name, *(kind.name for kind in PEERS)):
        errors = [
            abs(row.variances[name] / row.variances[Exact.name] - 1)
            for row in rows
            if name in row.variances and Exact.name in row.variances
        ]
        if errors:
            yield name, max(errors)


def main() -> None:
    """Run and print, or write to docs/."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0, help="of rounds for each case, once there are five")
    parser.add_argument("--only", default="", help="cases whose names begin so")
    parser.add_argument("--write", action="store_true", help="write docs/noise_overhead.md")
    options = parser.parse_args()
    if options.write and options.only:
        parser.error("--write replaces the whole table: leave --only out")
    torch.set_num_threads(options.threads)
    for told in ("Full backward hook is firing", "There is a performance drop"):  # the peers', of themselves
        warnings.filterwarnings("ignore", told)
    device = torch.device(options.device)
    rows = []
    for case in CASES:
        if case.name.startswith(options.only):
            begun_s = time.monotonic()
            row = compare(case, device, options.seconds)
            row.peaks = peaks(case, device)
            rows.append(row)
            print(f"{case.name}: {time.monotonic() - begun_s:.0f} s", flush=True)
    lines = table(rows)
    if options.write:
        write_page(PAGE, __doc__, lines, f"noise-overhead-{device.type}-{options.threads}")
    else:
        print("\n".join([*lines, "", machine()]))


if __name__ == "__main__":
    main()
