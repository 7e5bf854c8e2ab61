"""How often the stated 90 % intervals hold the truth: `python benchmarks/coverage.py [--write]`.

Batches are drawn from populations whose variance V, signal s and noise scale V/s are known: Gaussian gradients of a
quadratic; a9a and digits, where the gradient of every sample has been computed and batches are drawn with replacement.
The intervals are those of one batch, as `measure` states them, and those of `NoiseScale`.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from markdown import machine, write_page
from problems import DATA
from sklearn.datasets import load_digits
from torch import Tensor, nn

from rightbatch.data import load
from rightbatch.measurements import Intervals, Measurement
from rightbatch.noise import MicroBatchNorms, NoiseScale, per_example_gradients
from rightbatch.noise.statistics.jackknife import jackknife, jackknife_micro_batches

DOCS = Path(__file__).resolve().parents[1] / "docs"
MICRO_BATCHES = 8
QUANTITIES = ("V", "s", "V/s")


@dataclass(frozen=True)
class Population:
    """Gradients of single samples, with what is true of them.

    Args:
        name: in words.
        draw: (batches, samples) -> gradients, shape (batches, samples, dimensions).
        variance: tr Σ.
        signal: ‖g‖².
    """

    name: str
    draw: Callable[[int, int], Tensor]
    variance: float
    signal: float

    @property
    def truth(self) -> tuple[float, float, float]:
        """V, s and V/s."""
        return self.variance, self.signal, self.variance / self.signal if self.signal > 0 else math.inf


def gaussian(name: str, eigenvalues: Tensor, noise_scale: float, along: str, generator: torch.Generator) -> Population:
    """Gradients N(g, Σ) of a quadratic loss; g lies along the first eigenvector of Σ or evenly across all."""
    variance = eigenvalues.sum().item()
    signal = variance / noise_scale
    direction = torch.zeros_like(eigenvalues)
    direction[: 1 if along == "first" else len(eigenvalues)] = 1.0
    mean = direction / direction.norm() * math.sqrt(signal)

    def draw(batches: int, samples: int) -> Tensor:
        noise = torch.randn(batches, samples, len(eigenvalues), generator=generator, dtype=torch.float64)
        return noise * eigenvalues.sqrt() + mean

    return Population(name, draw, variance, signal)


def finite(name: str, gradients: Tensor, generator: torch.Generator) -> Population:
    """The gradients of all samples of a data set, shape (N, dimensions); batches are drawn with replacement."""
    mean = gradients.mean(0)
    variance = (gradients - mean).square().sum().item() / len(gradients)

    def draw(batches: int, samples: int) -> Tensor:
        rows = torch.randint(len(gradients), (batches, samples), generator=generator)
        return gradients[rows]

    return Population(name, draw, variance, mean.square().sum().item())


def quadratics(generator: torch.Generator, samples: int = 64) -> Iterator[Population]:
    """Isotropic and strongly anisotropic noise, batches from ten times the noise scale to where no signal is seen."""
    index = torch.arange(1, 51, dtype=torch.float64)
    spectra = {"isotropic, 50 dimensions": torch.ones_like(index), "eigenvalues k^-2": index**-2}
    spectra["one eigenvalue of 50 above 1e-4"] = torch.where(index == 1, 1.0, 1e-4)
    for spectrum, eigenvalues in spectra.items():
        for ratio in (10.0, 1.0, 0.1, 0.0):
            for along in ("first", "all") if ratio in (10.0, 1.0) and eigenvalues.std() > 0 else ("first",):
                where = f", gradient along {along}" if eigenvalues.std() > 0 and ratio in (10.0, 1.0) else ""
                name = f"quadratic, {spectrum}, b = {ratio:g} V/s{where}"
                yield gaussian(name, eigenvalues, samples / ratio if ratio else math.inf, along, generator)


def logistic(generator: torch.Generator, path: Path = DATA / "libsvm" / "a9a_train.npz") -> Iterator[Population]:
    """Logistic regression: at zero weights, and after 30 and 1000 steps of gradient descent."""
    source = load(str(path)).train
    x, y = source.fetch(torch.arange(len(source)))
    x, y = x.double(), y.double()
    weight, done = torch.zeros(x.shape[1], dtype=torch.float64), 0
    for steps in (0, 30, 1000):
        for _ in range(steps - done):
            weight -= 2.0 * ((torch.sigmoid(x @ weight) - y) @ x) / len(x)
        done = steps
        gradients = (torch.sigmoid(x @ weight) - y).unsqueeze(1) * x
        yield finite(f"a9a, logistic regression after {steps} steps", gradients, generator)


def network(generator: torch.Generator, hidden: int = 16, samples: int | None = None) -> Iterator[Population]:
    """A network of one hidden layer on the first `samples` digits: before training, and after 2 and 20 passes."""
    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels[:samples] / 16), torch.tensor(labels[:samples])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, hidden), nn.Tanh(), nn.Linear(hidden, 10)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    shuffle, done = torch.Generator().manual_seed(0), 0
    for passes in (0, 2, 20):
        for _ in range(done, passes):
            for rows in torch.randperm(len(x), generator=shuffle).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
                optimizer.step()
        done = passes
        gradients = per_example_gradients(model, nn.functional.cross_entropy, x, y)
        yield finite(f"digits, network {64}-{hidden}-10 after {passes} passes", gradients, generator)


def of_one_batch(gradients: Tensor) -> Measurement:
    """What `measure` states of a batch with these gradients, shape (b, dimensions)."""
    mean = gradients.mean(0)
    return jackknife(gradients.square().sum(1), gradients @ mean, mean.square().sum().item())


def of_micro_batches(gradients: Tensor, count: int = MICRO_BATCHES) -> Measurement:
    """What `measure` states of the batch from the gradients of micro-batches."""
    parts, mean, norms = gradients.tensor_split(count), gradients.mean(0), MicroBatchNorms()
    means = torch.stack([part.mean(0) for part in parts])
    norms2 = means.square().sum(1)
    for part, norm2 in zip(parts, norms2.tolist(), strict=True):
        norms.add(len(part), norm2)
    found = norms.measurement(mean.square().sum().item(), len(gradients))
    return jackknife_micro_batches(found, [len(part) for part in parts], norms2, means @ mean)


def smoothed(population: Population, samples: int, measurements: int, windows: int) -> Iterator[Intervals]:
    """The intervals of a tracker after so many measurements, in independent windows."""
    for _ in range(windows):
        g = population.draw(measurements, samples)
        norms2 = g.mean(1).square().sum(1)
        variances = (g.square().sum((1, 2)) - samples * norms2) / (samples - 1)
        tracker = NoiseScale()
        for v, norm2 in zip(variances.tolist(), norms2.tolist(), strict=True):
            tracker.update(Measurement(samples, norm2, v, norm2 - v / samples), 0)
        found = tracker.estimate(0)
        assert found is not None
        yield found.intervals


@dataclass(frozen=True)
class Coverage:
    """Of one quantity: how often its interval held the truth, how often it lay above it and below it, and its width.

    Args:
        held: share of the intervals.
        above: share of the intervals that lie wholly above the truth.
        below: the same below.
        width: median of (high - low)/truth; of high/low for the noise scale.
        open: share of the intervals without an upper end.
    """

    held: float
    above: float
    below: float
    width: float
    open: float


def covered(population: Population, found: list[Intervals]) -> list[Coverage]:
    """The coverage of V, s and V/s."""
    coverages = []
    for k, truth in enumerate(population.truth):
        lows = torch.tensor([intervals[k].low for intervals in found], dtype=torch.float64)
        highs = torch.tensor([intervals[k].high for intervals in found], dtype=torch.float64)
        above, below = (lows > truth).double().mean().item(), (highs < truth).double().mean().item()
        width = highs / lows if k == 2 else (highs - lows) / truth
        opened = highs.isinf().double().mean().item()
        coverages.append(Coverage(1 - above - below, above, below, width.median().item(), opened))
    return coverages


def estimators(
    population: Population, samples: int, repeats: int, windows: tuple[int, ...]
) -> Iterator[tuple[str, list[Intervals]]]:
    """Every kind of interval, each from fresh batches."""
    yield "one batch", [of_one_batch(g).intervals for g in population.draw(repeats, samples)]
    yield f"{MICRO_BATCHES} micro-batches", [of_micro_batches(g).intervals for g in population.draw(repeats, samples)]
    for measurements in windows:
        yield f"smoothed, {measurements}", list(smoothed(population, samples, measurements, repeats))


def populations(generator: torch.Generator, samples: int) -> Iterator[Population]:
    """All of them."""
    yield from quadratics(generator, samples)
    yield from logistic(generator)
    yield from network(generator)


def row(population: Population, samples: int, estimator: str, found: list[Intervals]) -> str:
    """One line of the table."""
    cells = []
    for coverage, quantity in zip(covered(population, found), QUANTITIES, strict=True):
        held = f"{100 * coverage.held:.0f}"
        if population.signal == 0 and quantity == "s":
            cells.append(held)
        elif coverage.open > 0.5:
            cells.append(f"{held} (open)")
        else:
            mark = "×" if quantity == "V/s" else ""
            cells.append(f"{held} ({mark}{coverage.width:.2g})")
    scale = population.truth[2]
    known = "∞" if math.isinf(scale) else f"{scale:.0f}"
    return f"| {population.name} | {known} | {samples} | {estimator} | " + " | ".join(cells) + " |"


def tally(shares: list[float]) -> str:
    """How many of the shares are what is asked, in whole per cent as in the table."""
    rounded = [round(100 * share) for share in shares]
    below, above = sum(r < 85 for r in rounded), sum(r > 95 for r in rounded)
    return f"Of {len(rounded)} shares {len(rounded) - below - above} are 85 to 95 %, {above} more, {below} less."


def main() -> None:
    """Run and print, or write to docs/."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write docs/coverage.md")
    parser.add_argument("--repeats", type=int, default=500, help="intervals of a kind")
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    lines = [
        "| problem | V/s | b | interval of | V | s | V/s |",
        "|---|---|---|---|---|---|---|",
    ]
    shares: list[float] = []
    start = time.perf_counter()
    samples = 64
    for population in populations(generator, samples):
        for estimator, found in estimators(population, samples, options.repeats, (2, 5, 40)):
            shares += [coverage.held for coverage in covered(population, found)]
            lines.append(row(population, samples, estimator, found))
            print(lines[-1], flush=True)
    lines += ["", tally(shares)]
    print(f"{tally(shares)} {time.perf_counter() - start:.0f} s")
    if options.write:
        write_page(DOCS / "coverage.md", __doc__, lines, "coverage")
    else:
        print(machine())


if __name__ == "__main__":
    main()
