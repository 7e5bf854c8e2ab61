"""Big Batch with the published settings on a9a: `python benchmarks/big_batch.py [--write]`.

Logistic regression in double precision from zero weights, no intercept, with and without an L2 penalty. The three
published forms run side by side, with θ = 1 as published and with θ = 0.5; the gradient norm is that of all the data.
"""

import argparse
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import torch
from markdown import machine, write_page
from problems import DATA
from torch import Tensor, nn

import rightbatch
from rightbatch.data import load
from rightbatch.report.drawing import BLUE, GREEN, ORANGE, STYLE, finish, log_axis
from rightbatch.report.saving import save_figure
from rightbatch.sizing import BigBatch
from rightbatch.stepping import Armijo, BarzilaiBorwein, Constant

matplotlib.use("Agg")
from matplotlib import pyplot as plt

DOCS = Path(__file__).resolve().parents[1] / "docs"
PENALTIES = (0.01, 0.0)
THETAS = (1.0, 0.5)
MOST_STEPS = 1000
TOLERANCE = 1e-6  # of the automatic stop; the library's default of 1e-3 ends the runs before there is a line to see
COLOURS = {"fixed step": ORANGE, "Armijo": BLUE, "Barzilai-Borwein": GREEN}


@dataclass(frozen=True)
class Problem:
    """ℓ(w) = mean log(1 + exp(-y·xᵀw)) + λ/2·‖w‖²."""

    x: Tensor
    y: Tensor
    penalty: float

    @classmethod
    def a9a(cls, penalty: float) -> "Problem":
        source = load(str(DATA / "libsvm" / "a9a_train.npz")).train
        x, y = source.fetch(torch.arange(len(source)))
        return cls(x.double(), y.double().unsqueeze(1), penalty)

    def loss(self, model: nn.Linear, x: Tensor, y: Tensor) -> Tensor:
        loss = nn.functional.binary_cross_entropy_with_logits(model(x), y)
        return loss + self.penalty / 2 * model.weight.square().sum() if self.penalty else loss

    def gradient_norm(self, model: nn.Linear) -> float:
        """‖∇ℓ‖ over all the data."""
        with torch.no_grad():
            residual = torch.sigmoid(model(self.x)) - self.y
            return float((residual.T @ self.x / len(self.x) + self.penalty * model.weight).norm())

    @property
    def smoothness(self) -> float:
        """L, the largest curvature of ℓ anywhere."""
        return float(torch.linalg.eigvalsh(self.x.T @ self.x / len(self.x))[-1]) / 4 + self.penalty


@dataclass
class Trace:
    """One run, step by step."""

    norms: list[float]
    passes: list[float] = field(default_factory=lambda: [0.0])
    sizes: list[int] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    stopped: str = ""

    def reached(self, share: float) -> int | None:
        """The first step after which the norm is at most `share` of the first one."""
        return next((t for t, norm in enumerate(self.norms) if norm <= share * self.norms[0]), None)

    def line(self, examples: int) -> tuple[int, float, float] | None:
        """Of the steps on all `examples`: the first one, steps for a fall by ten, and R² of log‖∇ℓ‖ against steps."""
        first = next((t for t, size in enumerate(self.sizes) if size >= examples), None)
        if first is None or len(self.norms) - first < 20:
            return None
        steps = list(range(first, len(self.norms)))
        logs = [math.log10(norm) for norm in self.norms[first:]]
        slope = statistics.linear_regression(steps, logs).slope
        return first, -1 / slope, statistics.correlation(steps, logs) ** 2


def run(problem: Problem, theta: float, step: Any) -> Trace:
    """Big Batch from zero weights until it stops by itself, or for a thousand steps."""
    model = nn.Linear(problem.x.shape[1], 1, bias=False).double()
    nn.init.zeros_(model.weight)
    batch = BigBatch(theta=theta, tolerance=TOLERANCE)
    auto = rightbatch.AutoBatch(model, None, (problem.x, problem.y), batch=batch, step=step, epochs=10**6)
    trace = Trace([problem.gradient_norm(model)])
    for x, y in auto:
        auto.backward(problem.loss(model, x, y))
        if auto.step():
            trace.norms.append(problem.gradient_norm(model))
            trace.passes.append(auto.epoch)
            trace.sizes.append(auto.last["batch_size"])
            trace.rates.append(auto.learning_rate)
            if auto.steps == MOST_STEPS:
                break
    trace.stopped = auto.stopped
    return trace


def forms(problem: Problem) -> dict[str, Callable[[], Any]]:
    """The three published forms; only the first is given a step size, that of the theory."""
    return {
        "fixed step": lambda: Constant(1 / problem.smoothness),
        "Armijo": Armijo,
        "Barzilai-Borwein": BarzilaiBorwein,
    }


Traces = dict[tuple[float, float, str], Trace]


def table(traces: Traces, examples: int) -> list[str]:
    """What was reached, and how straight the fall is."""
    lines = [
        "| λ | θ | form | steps to 10⁻³ | passes | steps to 10⁻⁶ | passes | all data from | steps for a tenth | R² |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (penalty, theta, form), trace in traces.items():
        cells = []
        for share in (1e-3, 1e-6):
            step = trace.reached(share)
            cells += [f"{step:,}", f"{trace.passes[step]:.0f}"] if step is not None else ["not reached", ""]
        line = trace.line(examples)
        cells += [f"{line[0]}", f"{line[1]:.0f}", f"{line[2]:.3f}"] if line is not None else ["never", "", ""]
        lines.append(f"| {penalty:g} | {theta:g} | {form} | " + " | ".join(cells) + " |")
    return lines


def draw(traces: Traces, examples: int) -> plt.Figure:
    """Four panels a penalty: gradient norm against steps and passes, batch size and step size against steps."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "big-batch"}):
        figure, rows = plt.subplots(len(PENALTIES), 4, figsize=(15, 7.2), layout="constrained")
        for penalty, axes in zip(PENALTIES, rows, strict=True):
            for (_, theta, form), trace in ((key, t) for key, t in traces.items() if key[0] == penalty):
                dash = {"linestyle": "-" if theta == 1 else (0, (3, 2)), "linewidth": 1.6 if theta == 1 else 1.1}
                style = {"color": COLOURS[form], "label": f"{form}, θ = {theta:g}", **dash}
                axes[0].plot(trace.norms, **style)
                axes[1].plot([max(p, 1e-3) for p in trace.passes], trace.norms, **style)
                axes[2].plot(range(1, len(trace.norms)), trace.sizes, **style)
                axes[3].plot(range(1, len(trace.norms)), trace.rates, **style)
            lowest = min(min(t.norms) for key, t in traces.items() if key[0] == penalty)
            for panel in axes[:2]:
                panel.set_yscale("log")
                panel.set_ylim(lowest / 2, 1)
            log_axis(axes[1], "x", 1e-3, 2000)
            log_axis(axes[2], "y", 20, 1.5 * examples)
            log_axis(axes[3], "y", 0.1, 2000)
            axes[2].axhline(examples, color="0.6", linewidth=0.8)
            axes[2].annotate("all the data", (1, examples), (4, 3), textcoords="offset points", color="0.4", fontsize=9)
            title = f"L2 penalty λ = {penalty:g}" if penalty else "no penalty"
            axes[0].set_title(title, loc="left", fontsize=11)
            finish(axes[0], "steps", "‖∇ℓ‖ over all the data", legend=False)
            finish(axes[1], "passes over the data", "‖∇ℓ‖ over all the data", legend=False)
            finish(axes[2], "steps", "batch size", legend=False)
            finish(axes[3], "steps", "step size", legend=False)
        handles, labels = rows[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=6)
        return figure


def main() -> None:
    """Run and print, or write to docs/."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write docs/big_batch.md and its figure")
    parser.add_argument("--png", help="also draw to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    traces: Traces = {}
    for penalty in PENALTIES:
        problem = Problem.a9a(penalty)
        for theta in THETAS:
            for form, make in forms(problem).items():
                trace = traces[penalty, theta, form] = run(problem, theta, make())
                print(f"λ = {penalty:g}, θ = {theta:g}, {form}: {len(trace.sizes)} steps; {trace.stopped}", flush=True)
    lines = table(traces, len(problem.x))
    print("\n".join(lines))
    figure = draw(traces, len(problem.x))
    if options.png:
        figure.savefig(options.png, dpi=80)
    if options.write:
        (DOCS / "figures").mkdir(exist_ok=True)
        save_figure(figure, DOCS / "figures" / "big_batch_a9a.svg")
        write_page(DOCS / "big_batch.md", __doc__, lines, "big_batch")
    else:
        print(machine())


if __name__ == "__main__":
    main()
