"""What the engine costs beside a bare loop: `python benchmarks/overhead.py [--write] [--device cuda] [--threads N]`.

Both sides train the same model on the same batches in the same order, with the same loss and the same
`torch.optim.SGD(momentum=0.9, fused=True)`. The bare loop is what a person writes: index, forward, `zero_grad`,
backward, `step`, and no look at the loss. Bare runs and the others take turns in one process, and each is divided by
the mean of the bare runs just before and after it.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from markdown import machine, write_page
from networks import cnn2, mlp
from torch import Tensor, nn

import rightbatch
from rightbatch.data import Order
from rightbatch.loop.memory.forward_limit import BatchSnapshot
from rightbatch.models import build_model

BATCH = 128
WARM_UP_STEPS = 5
SPARE_STEPS = 3
NOTES = 500
SEGMENT_S = 0.2  # of the bare loop: long against the clock, short against what else the machine does
LEARNING_RATE = 0.01


@dataclass(frozen=True)
class Model:
    """A model, the shape of its samples and what measuring every step may cost."""

    name: str
    make: Callable[[], nn.Module]
    x_shape: tuple[int, ...]
    aim: float


MODELS = (
    Model("logistic regression 123-2", lambda: nn.Linear(123, 2), (123,), 0.0),
    Model("MLP 784-512-512-10", mlp, (784,), 1.10),
    Model("CNN, the built-in one (16, 64 channels)", lambda: build_model("cnn", (1, 28, 28), 10), (1, 28, 28), 1.40),
    Model("CNN, 32 and 64 channels", cnn2, (1, 28, 28), 1.40),
)


class TimedLoss:
    """Cross-entropy that notes the time when the warm-up, and when `steps` further steps, have come by."""

    def __init__(self, steps: int, device: torch.device) -> None:
        self.steps = steps
        self.device = device
        self.samples = 0
        self.marks_s: list[float] = []

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        self.samples += len(target)
        if self.samples >= BATCH * (WARM_UP_STEPS + len(self.marks_s) * self.steps) and len(self.marks_s) < 2:
            self.marks_s.append(self._now())
        return nn.functional.cross_entropy(output, target)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        elif torch.get_num_threads() == 1:
            return time.process_time()
        return time.perf_counter()

    @property
    def seconds_per_step(self) -> float:
        begun_s, ended_s = self.marks_s
        return (ended_s - begun_s) / self.steps


@dataclass(frozen=True)
class Work:
    """One model with its data: what every run does."""

    model: Model
    x: Tensor
    y: Tensor

    def start(self) -> tuple[nn.Module, Callable[..., torch.optim.Optimizer]]:
        torch.manual_seed(0)
        module = self.model.make().to(self.x.device)
        return module, lambda p: torch.optim.SGD(p, lr=LEARNING_RATE, momentum=0.9, fused=True)

    @property
    def steps(self) -> int:
        """How many steps are timed."""
        return len(self.x) // BATCH - WARM_UP_STEPS - SPARE_STEPS


Run = Callable[[Work, TimedLoss], None]


def bare(work: Work, loss: TimedLoss) -> None:
    """The loop a person writes, on the order the library uses."""
    module, make_optimizer = work.start()
    optimizer = make_optimizer(module.parameters())
    n = len(work.x)
    order = torch.from_numpy(Order(n, 0).indices(0, 0, n)).to(work.x.device)
    for start in range(0, n, BATCH):
        index = order[start : start + BATCH]
        value = loss(module(work.x.index_select(0, index)), work.y.index_select(0, index))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()


def fit(noise: str | None) -> Run:
    """`rightbatch.fit` with a fixed batch."""

    def run(work: Work, loss: TimedLoss) -> None:
        module, make_optimizer = work.start()
        data = (work.x, work.y)
        settings = {"batch_size": BATCH, "lr": None, "noise": noise, "epochs": 1, "progress": False}
        rightbatch.fit(module, data, loss, optimizer=make_optimizer, **settings)

    return run


def own_loop(noise: str | None) -> Run:
    """A loop of one's own around `AutoBatch` with a fixed batch."""

    def run(work: Work, loss: TimedLoss) -> None:
        module, make_optimizer = work.start()
        optimizer = make_optimizer(module.parameters())
        auto = rightbatch.AutoBatch(module, optimizer, (work.x, work.y), batch_size=BATCH, noise=noise)
        for x, y in auto:
            auto.backward(loss(module(x), y))
            auto.step()

    return run


WAYS: tuple[tuple[str, Run, Callable[[Model], float]], ...] = (
    ("`fit`, nothing measured", fit(None), lambda model: 1.03),
    ("`fit`, noise measured every step", fit("auto(every=1)"), lambda model: model.aim),
    ("`fit`, noise measured within 3 % of the time", fit("auto"), lambda model: 0.0),
    ("`AutoBatch`, nothing measured", own_loop(None), lambda model: 0.0),
    ("`AutoBatch`, noise measured every step", own_loop("auto(every=1)"), lambda model: 0.0),
)


def work_for(model: Model, device: torch.device) -> Work:
    """Data for one epoch as long as a segment, by a first look at how long a step takes."""
    generator = torch.Generator().manual_seed(1)

    def data(steps: int) -> Work:
        n = BATCH * (steps + WARM_UP_STEPS + SPARE_STEPS)
        x = torch.randn(n, *model.x_shape, generator=generator).to(device)
        return Work(model, x, torch.randint(0, 2, (n,), generator=generator).to(device))

    look = TimedLoss(8, device)
    bare(data(8), look)
    return data(8 * max(1, min(50, round(SEGMENT_S / look.seconds_per_step / 8))))


def compare(model: Model, device: torch.device, rounds: int) -> Iterator[str]:
    """The rows of one model's table."""
    work = work_for(model, device)

    def timed(run: Run) -> float:
        loss = TimedLoss(work.steps, device)
        run(work, loss)
        return loss.seconds_per_step

    plain: list[float] = []
    ratios: dict[str, list[float]] = {name: [] for name, _, _ in WAYS}
    for _ in range(rounds):
        before = timed(bare)
        for name, run, _ in WAYS:
            seconds = timed(run)
            after = timed(bare)
            plain.append(after)
            ratios[name].append(2 * seconds / (before + after))
            before = after
    bare_s = statistics.median(plain)
    for name, _, aim in WAYS:
        low, middle, high = statistics.quantiles(ratios[name], n=4)
        wanted = f"{aim(model):.2f}" if aim(model) else ""
        extra = 1e6 * bare_s * (middle - 1)
        yield (
            f"| {model.name} | {1e3 * bare_s:.3f} | {name} | **{middle:.3f}** | {low:.3f} to {high:.3f} | {extra:.0f} |"
            f" {wanted} |"
        )


def noted(device: torch.device, rounds: int) -> Iterator[str]:
    """What it costs to note random states and buffers before each batch, to restart it if memory runs out."""
    for layers, channels in ((0, 0), (5, 64), (53, 256)):
        norms = (nn.BatchNorm2d(channels) for _ in range(layers))
        beginning = BatchSnapshot(nn.Sequential(nn.Linear(1, 1), *norms).to(device), device)
        beginning.note()
        seconds = []
        for _ in range(rounds):
            start_s = time.perf_counter()
            for _ in range(NOTES):
                beginning.note()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append((time.perf_counter() - start_s) / NOTES)
        low, middle, high = statistics.quantiles(seconds, n=4)
        yield f"| {layers} | {1e6 * middle:.0f} | {1e6 * low:.0f} to {1e6 * high:.0f} |"


def main() -> None:
    """Run and print, or write to docs/."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", help="models whose name contains this")
    parser.add_argument("--write", action="store_true", help="write docs/overhead.md")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    lines = [
        "| model | bare step, ms | what runs | ratio | middle half of the ratios | added, µs a step | aim |",
        "|---|---|---|---|---|---|---|",
    ]
    for model in MODELS:
        if options.only in model.name:
            for row in compare(model, device, options.rounds):
                print(row, flush=True)
                lines.append(row)
    notes = ["| BatchNorm layers | noted before a batch, µs | middle half |", "|---|---|---|"]
    for row in noted(device, options.rounds):
        print(row, flush=True)
        notes.append(row)
    if options.write:
        run = f"{device.type}-{options.threads}"
        write_page(Path("docs/overhead.md"), __doc__, notes, f"overhead-noted-{run}")
        if len(lines) > 2:
            write_page(Path("docs/overhead.md"), __doc__, lines, f"overhead-{run}")
    else:
        print(machine())


if __name__ == "__main__":
    main()
