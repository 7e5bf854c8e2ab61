"""Programs before and after their conversion: `python benchmarks/programs.py [--write]`.

Each program is run with its plain loop and with `AutoBatch` in its place, for the same number of samples and from the
same initial weights:

- *converted*: as the README shows, with the `DataLoader` as it is, the program's own optimizer and learning rate, and
  `batch_size="auto"` (its scheduler by `per_sample`, its clipping by `clip_norm`, its scaler by `scaler`);
- *lr scaled*: with the learning rate also following the batch size, from that of the plain loop on:
  `lr="linear-scaling(at=...)"` with SGD, `lr="square-root-scaling(at=...)"` with Adam and AdamW;
- *same size*: with the batch size of the plain loop, so that only the library's own work and the way in which it reads
  the samples differ.

The loss is the least validation loss of those after each epoch; that of the GAN is the energy distance between
generated and real points, that of REINFORCE the exact expected length of an episode. Losses and seconds are means over
the seeds, and the columns of the conversions are relative to the plain loop. The ways take turns in one process;
seconds are processor seconds of one thread, without imports, the making of the data and the validation.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from markdown import machine, write_page
from training_programs import PROGRAMS, Program

import rightbatch
from rightbatch.rules.lr import Constant, LinearScaling, SquareRootScaling

MOST_LOSS, MOST_SECONDS = 1.02, 0.9


@dataclass(frozen=True)
class Result:
    """What a run reached: a loss, processor seconds, samples and steps."""

    loss: float
    seconds: float
    samples: int
    steps: int


def plain(program: Program, seed: int) -> Iterator[tuple[int, int]]:
    """The loop as it is written without rightbatch; after each epoch, samples and steps so far."""
    optimizer, scaler, samples, steps = program.optimizer, program.scaler, 0, 0
    scheduler = program.make_scheduler(optimizer) if program.make_scheduler is not None else None
    for _ in range(program.epochs):
        program.begin_epoch()
        for batch in program.loader:
            loss, _ = program.loss(batch)
            optimizer.zero_grad()
            if scaler is None:
                loss.backward()
            else:
                scaler.scale(loss).backward()
            if program.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(program.model.parameters(), program.clip_norm)
            if scaler is None:
                optimizer.step()
            else:
                scaler.step(optimizer)
                scaler.update()
            if scheduler is not None:
                scheduler.step()
            size = rows(batch)
            samples, steps = samples + size, steps + 1
            program.after_step(size)
        yield samples, steps


def converted(
    program: Program, seed: int, batch_size: object = "auto", scaled: bool = False
) -> Iterator[tuple[int, int]]:
    """The same loop under AutoBatch."""
    make, lr = program.make_scheduler, None
    if make is not None:
        lr = rightbatch.per_sample(make, samples=program.batch_size)
    if scaled:
        scaling = LinearScaling if isinstance(program.optimizer, torch.optim.SGD) else SquareRootScaling
        lr = scaling(Constant() if lr is None else lr, at=program.batch_size)
    train = program.loader if program.train is None else program.train
    settings = {"clip_norm": program.clip_norm, "scaler": program.scaler, "micro_batch": program.micro_batch}
    auto = rightbatch.AutoBatch(program.model, program.optimizer, train, batch_size, lr, seed=seed, **settings)
    for _ in range(program.epochs):
        program.begin_epoch()
        for batch in auto:
            loss, weight = program.loss(batch)
            auto.backward(loss, weight=weight)
            if auto.step():
                program.after_step(auto.last["batch_size"])
        yield auto.samples, auto.steps


WAYS: dict[str, Callable[[Program, int], Iterator[tuple[int, int]]]] = {
    "plain": plain,
    "converted": converted,
    "lr scaled": partial(converted, scaled=True),
    "same size": lambda program, seed: converted(program, seed, program.batch_size),
}
CONVERSIONS = [way for way in WAYS if way != "plain"]


def rows(batch: object) -> int:
    """The samples of a batch."""
    while not isinstance(batch, torch.Tensor):
        batch = next(iter(batch.values())) if isinstance(batch, dict) else batch[0]
    return len(batch)


def run(make: Callable[[], Program], way: str, seed: int) -> Result:
    """One run; its loss is the least of those after each epoch."""
    torch.manual_seed(seed)
    program = make()
    least, seconds = math.inf, 0.0
    begun = time.process_time()
    samples = steps = 0
    for so_far in WAYS[way](program, seed):
        seconds += time.process_time() - begun
        samples, steps = so_far
        least = min(least, program.validate())
        begun = time.process_time()
    return Result(least, seconds, samples, steps)


def compare(name: str, seeds: int) -> dict[str, list[Result]]:
    """The runs of one program, by way."""
    runs: dict[str, list[Result]] = {way: [] for way in WAYS}
    for seed in range(seeds):
        ways = list(WAYS) if seed % 2 == 0 else list(reversed(WAYS))
        for way in ways:
            runs[way].append(run(PROGRAMS[name], way, seed))
    return runs


def ratio(runs: dict[str, list[Result]], way: str, what: str) -> float:
    """The mean over seeds of a way, divided by that of the plain loop."""
    mean, base = (statistics.fmean(getattr(r, what) for r in runs[w]) for w in (way, "plain"))
    return mean / base


def row(name: str, runs: dict[str, list[Result]]) -> str:
    """The line of one program."""
    losses = [r.loss for r in runs["plain"]]
    spread = statistics.stdev(losses) / statistics.fmean(losses) if len(losses) > 1 else 0.0
    sizes = {way: statistics.fmean(r.samples / r.steps for r in runs[way]) for way in runs}
    cells = [
        name,
        f"{statistics.fmean(losses):.4f} ± {100 * spread:.1f} %",
        f"{statistics.fmean(r.seconds for r in runs['plain']):.2f}",
        f"{sizes['plain']:.0f}",
    ]
    for way in CONVERSIONS:
        loss, seconds = (ratio(runs, way, what) for what in ("loss", "seconds"))
        cells += [f"{100 * (loss - 1):+.1f} %", f"{seconds:.2f}"]
        cells += [f"{sizes[way]:.0f}"] if way != "same size" else []
    return f"| {' | '.join(cells)} |"


def summary(results: dict[str, dict[str, list[Result]]], way: str) -> str:
    """How a way of conversion meets the aims, in words."""
    losses = {name: ratio(runs, way, "loss") for name, runs in results.items()}
    median = statistics.median(ratio(runs, way, "seconds") for runs in results.values())
    worse = [f"{name} ({100 * (value - 1):+.1f} %)" for name, value in losses.items() if value > MOST_LOSS]
    found = f"*{way}*: median time {median:.2f} (aim: at most {MOST_SECONDS}); {len(worse)} of {len(losses)} more than "
    return f"{found}{100 * (MOST_LOSS - 1):.0f} % worse in loss (aim: none){': ' * bool(worse)}{'; '.join(worse)}."


HEAD = [
    "| program | plain: loss ± scatter over seeds | seconds | samples a step | converted: loss | time | samples a step "
    "| lr scaled: loss | time | samples a step | same size: loss | time |",
    f"|{'---|' * 12}",
]


def main() -> None:
    """Run and print, or write to docs/."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", nargs="+", default=list(PROGRAMS), choices=list(PROGRAMS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="write docs/programs.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for way in WAYS:
        run(PROGRAMS["VAE"], way, 0)  # imports what is imported at first use
    results = {}
    for name in options.programs:
        results[name] = compare(name, options.seeds)
        print(row(name, results[name]), flush=True)
    lines = [*HEAD, *(row(name, runs) for name, runs in results.items())]
    lines += [line for way in CONVERSIONS for line in ("", summary(results, way))]
    if options.write:
        write_page(Path("docs/programs.md"), __doc__, lines, "programs")
    else:
        print(*lines[-6:], machine(), sep="\n")


if __name__ == "__main__":
    main()
