"""The noise scale of a small network on MNIST while it trains: `python benchmarks/mnist_noise_scale.py [--write]`.

The built-in `cnn` (3x3 convolutions of 16 and 64 channels with max-pooling, 128 hidden units) is trained by plain SGD
with a learning rate of 0.1 on batches of 64 for three epochs. At chosen steps the parameters are held and V̂ and ŝ
averaged over fresh batches of 512 training examples, exactly; between them the run's own smoothed estimate is read.
"""

import argparse
import math
import statistics
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import torch
from markdown import machine, write_page
from problems import DATA
from torch import Tensor, nn

import rightbatch
from rightbatch.data import load
from rightbatch.evidence import NoiseEstimate
from rightbatch.models import build_model
from rightbatch.noise import NoiseScale, PerExampleNorms, squared_norm
from rightbatch.report.drawing import BLUE, INK, MUTED, ORANGE, STYLE, finish, log_axis
from rightbatch.report.saving import save_figure

matplotlib.use("Agg")
from matplotlib import pyplot as plt

DOCS = Path(__file__).resolve().parents[1] / "docs"
BATCH, LEARNING_RATE, EPOCHS = 64, 0.1, 3
LOOK_EXAMPLES, LOOK_BATCHES = 512, 16
LOOKS = (0, 10, 30, 100, 200, 400, 700, 1000, 1500, 2000, 2800)
OTHERS = (900, 876)
OFF_THE_FIGURE = 1e6  # where the noise scale is unbounded


@dataclass(frozen=True)
class Look:
    """The noise at the parameters after `step` steps; the loss is that of the same examples."""

    step: int
    loss: float
    noise: NoiseEstimate


@dataclass(frozen=True)
class Trace:
    """What was seen of one run: looks, and at every measured step the run's own estimate."""

    looks: list[Look]
    running: list[tuple[int, NoiseEstimate]]


def look(model: nn.Module, x: Tensor, y: Tensor, step: int, batches: int) -> Look:
    """Hold the parameters and measure fresh batches, drawn without replacement."""
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(step))
    norms, tracker, losses = PerExampleNorms(model), NoiseScale(decay=1), []
    for number, index in enumerate(rows[: batches * LOOK_EXAMPLES].split(LOOK_EXAMPLES)):
        norms.arm(len(index))
        loss = nn.functional.cross_entropy(model(x[index]), y[index])
        norms.verify(loss)
        loss.backward()
        found = norms.measurement(squared_norm(p.grad for p in model.parameters()), len(index))
        norms.disarm()
        model.zero_grad()
        tracker.update(found, number)
        losses.append(loss.item())
    noise = tracker.estimate(batches)
    assert noise is not None
    return Look(step, statistics.mean(losses), noise)


def train(x: Tensor, y: Tensor, looks: tuple[int, ...] = LOOKS, batches: int = LOOK_BATCHES) -> Trace:
    """Train until the last look."""
    model = build_model("cnn", tuple(x.shape[1:]), 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    auto = rightbatch.AutoBatch(model, optimizer, (x, y), batch=BATCH, epochs=EPOCHS, noise="per-example(every=4)")
    trace = Trace([look(model, x, y, 0, batches)], [])
    for examples, labels in auto:
        auto.backward(nn.functional.cross_entropy(model(examples), labels))
        if not auto.step():
            continue
        if auto.noise is not None and auto.noise.age_samples == 0:
            trace.running.append((auto.steps, auto.noise))
        if auto.steps in looks:
            trace.looks.append(look(model, x, y, auto.steps, batches))
            seen = trace.looks[-1]
            print(f"step {seen.step}: loss {seen.loss:.3f}, noise scale {seen.noise.noise_scale:,.0f}", flush=True)
        if auto.steps == max(looks):
            break
    return trace


def table(trace: Trace) -> list[str]:
    """One row a look, and what is read off."""
    lines = ["| steps | epochs | training loss | noise scale | 90 % interval |", "|---|---|---|---|---|"]
    for seen in trace.looks:
        noise, epochs = seen.noise, seen.step * BATCH / 60_000
        bounds = f"{noise.low:,.0f} to {noise.high:,.0f}" if noise.high < math.inf else f"at least {noise.low:,.0f}"
        lines.append(f"| {seen.step:,} | {epochs:.2f} | {seen.loss:.3f} | {noise.noise_scale:,.0f} | {bounds} |")
    low, middle, high = statistics.quantiles([noise.noise_scale for _, noise in trace.running], n=4)
    lines += [
        "",
        f"Half of the run's own smoothed estimates lie from {low:,.0f} to {high:,.0f}, their median is {middle:,.0f}.",
    ]
    for level in OTHERS:
        steps = [f"{seen.step:,}" for seen in trace.looks if seen.noise.low <= level <= seen.noise.high]
        where = f"after {', '.join(steps)} steps" if steps else "nowhere"
        lines[-1] += f" {level} lies within the interval {where}."
    return lines


def draw(trace: Trace) -> plt.Figure:
    """Noise scale against steps, and against the training loss."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "mnist-noise-scale"}):
        figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained", sharey=True)
        steps = [step for step, _ in trace.running]
        shown, low, high = zip(*(_drawn(noise) for _, noise in trace.running), strict=True)
        left.plot(steps, shown, color=BLUE, linewidth=1.0, label="the run's own, smoothed")
        left.fill_between(steps, low, high, color=BLUE, alpha=0.15, linewidth=0)
        looks = trace.looks[1:]
        scales, low, high = zip(*(_drawn(seen.noise) for seen in looks), strict=True)
        errors = [[s - a for s, a in zip(scales, low, strict=True)], [z - s for s, z in zip(scales, high, strict=True)]]
        mark = {"color": ORANGE, "fmt": "o", "markersize": 4, "label": "parameters held, 90 % interval"}
        left.errorbar([seen.step for seen in looks], scales, errors, **mark)
        right.errorbar([seen.loss for seen in looks], scales, errors, **mark)
        for axis in (left, right):
            axis.axhline(OTHERS[0], color=MUTED, linewidth=1.0, linestyle=(0, (3, 2)))
        left.annotate(
            "about 900, McCandlish and others; 876 again", (steps[0], OTHERS[0]), (0, 4),
            textcoords="offset points", color=INK, fontsize=9,
        )  # fmt: skip
        log_axis(left, "x", max(1, steps[0]), 1.1 * steps[-1])
        log_axis(left, "y", 3, 2e5)
        log_axis(right, "x", 1.1 * looks[0].loss, 0.8 * min(seen.loss for seen in looks))
        finish(left, "steps", "noise scale, examples")
        finish(right, "training loss", "", legend=False)
        return figure


def _drawn(noise: NoiseEstimate) -> tuple[float, float, float]:
    """Noise scale and interval, as far as the figure goes."""
    scale = min(noise.noise_scale, OFF_THE_FIGURE)
    return scale, min(noise.low, scale), max(scale, min(noise.high, OFF_THE_FIGURE))


def main() -> None:
    """Run and print, or write to docs/."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write docs/mnist_noise_scale.md and its figure")
    parser.add_argument("--png", help="also draw to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    source = load(str(DATA / "mnist")).train
    trace = train(*source.fetch(torch.arange(len(source))))
    lines = table(trace)
    figure = draw(trace)
    if options.png:
        figure.savefig(options.png, dpi=80)
    if options.write:
        (DOCS / "figures").mkdir(exist_ok=True)
        save_figure(figure, DOCS / "figures" / "mnist_noise_scale.svg")
        write_page(DOCS / "mnist_noise_scale.md", __doc__, lines, "mnist-noise-scale")
    else:
        print("\n".join([*lines, "", machine()]))


if __name__ == "__main__":
    main()
