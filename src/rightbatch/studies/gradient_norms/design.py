"""How long the gradient of a mini-batch is at each batch size, as a sum over its samples and as their mean."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ...ranges import require_number, require_whole
from ..experiment import SHEN, Drawing, Experiment, Result, Section, StudyTrial, rounded
from ..plain_steps import plain_steps
from ..subject import Subject, everything
from .claims import Cell, against_theory, average, findings
from .figure import draw_norms

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ...fitting.units import Loss

CHUNK_SAMPLES = 1024  # whose gradients are read in one backward pass


@dataclass(frozen=True)
class GradientNorms(Experiment):
    """Train to an early and to a late moment; there, at fixed parameters, draw many batches of each size.

    Samples of a batch are drawn with replacement, so that theory is exact at every size:

        E‖g_b‖² = s + V/b  for the mean over the batch,  E‖b g_b‖² = bV + b²s  for the sum

    with s = ‖ḡ‖² of the mean ḡ of the gradients g_i of all N samples and V = Σ ‖g_i - ḡ‖² / N, from the gradient of
    every sample. Dropout and BatchNorm are as at test when gradients are looked at.

    Args:
        sizes: batch sizes whose gradients are looked at.
        epochs: of training until the early and the late moment.
        seeds: of initial parameters, order and draws.
        draws: batches of each size at each moment.
        batch: samples in a step of training.
        rate: learning rate of plain SGD.

    Reference: Kevin Shen, "Effect of batch size on training dynamics" (2018), gradient norms over 1,000 trials after 2
    and after 30 epochs on MNIST. It does not say whether the loss is a sum or a mean; both are shown.
    """

    sizes: tuple[int, ...] = (1, 4, 16, 64, 256, 1024)
    epochs: tuple[int, int] = (2, 30)
    seeds: int = 3
    draws: int = 1000
    batch: int = 32
    rate: float = 0.1

    name: ClassVar[str] = "gradient-norms"
    title: ClassVar[str] = "The norm of a mini-batch gradient"
    question: ClassVar[str] = (
        "Do larger batches have larger gradient norms? Measurements say yes, theory says no. Which is true for a loss "
        "that is summed over the batch, and which for one that is averaged?"
    )
    source: ClassVar[str] = SHEN

    @property
    def classic(self) -> Subject:
        """The digits, with two hidden layers."""
        return Subject("digits", "mlp")

    def trials(self, subject: Subject) -> list[StudyTrial]:
        """One for each size, moment and seed: all sizes at both moments with the first seed first.

        Raises:
            InputError: a setting is out of its range.
            UnsupportedError: the model has no gradient of one sample.
        """
        for name in ("seeds", "batch"):
            require_whole(f"GradientNorms.{name}", getattr(self, name), least=1)
        require_whole("GradientNorms.draws", self.draws, least=2)
        require_number("GradientNorms.rate", self.rate, above=0)
        for size in self.sizes:
            require_whole("GradientNorms.sizes", size, least=1)
        require_whole("GradientNorms.epochs[0]", self.epochs[0], least=0)
        require_whole("GradientNorms.epochs[1]", self.epochs[1], least=self.epochs[0] + 1)
        _moments(subject.network(0).eval(), _loss(subject), *subject.sources()[0].fetch(_first(2)))
        return [
            StudyTrial(f"batch {size}, {moment}, seed {seed}", {"size": size, "moment": moment, "seed": seed})
            for seed in range(self.seeds)
            for moment in ("early", "late")
            for size in self.sizes
        ]

    def run(self, subject: Subject, trial: StudyTrial) -> Result:
        """Train, or take the network the trial before was trained to; norms of the mean-reduced gradients, V and s."""
        import torch

        size, seed, moment = (trial.settings[name] for name in ("size", "seed", "moment"))
        model, variance, signal = _trained(self, subject, seed, self.epochs[moment == "late"])
        (x, y), loss = everything(subject.sources()[0]), _loss(subject)
        parameters = [p for p in model.parameters() if p.requires_grad]
        random = np.random.default_rng((seed, size, moment == "late"))
        norms = []
        for _ in range(self.draws):
            rows = torch.from_numpy(random.integers(len(x), size=size))
            gradients = torch.autograd.grad(loss(model(x[rows]), y[rows]), parameters, allow_unused=True)
            norms.append(math.sqrt(sum(g.square().sum().item() for g in gradients if g is not None)))
        return {**trial.settings, "norms": rounded(norms), "variance": variance, "signal": signal}

    def section(self, subject: Subject, results: Mapping[str, Result]) -> Section:
        """Norms by batch size, held against theory and against what was published."""
        from ...report.words import short

        def rounded(value: float) -> str:
            return short(float(f"{value:.2g}"))

        cells: dict[Cell, Result] = {(r["moment"], r["size"], r["seed"]): r for r in results.values()}
        rows, ratios = [], {}
        for moment in ("early", "late"):
            for size in sorted({size for when, size, _ in cells if when == moment}):
                runs = [r for (when, b, _), r in sorted(cells.items()) if (when, b) == (moment, size)]
                mean = float(np.mean([r["norms"] for r in runs]))
                within = math.sqrt(np.mean([np.var(r["norms"]) for r in runs]))
                spread = [f"{rounded(k * mean)} ± {rounded(k * within)}" for k in (1, size)]
                ratio, error = ratios[moment, size] = against_theory(runs)
                rows.append((moment, f"{size:,}", f"{len(runs)}", *spread, f"{ratio:.3f} ± {1.645 * error:.3f}"))
        scales = []
        for moment in dict.fromkeys(row[0] for row in rows):
            v, s = (average(cells, moment, name) for name in ("variance", "signal"))
            scale = f"{v / s:,.0f} samples" if s > 0 else "∞"
            scales.append(f"{moment} V = {v:.3g}, s = {s:.2g}, V/s = {scale}")
        paragraphs = [
            f"Plain SGD with a learning rate of {self.rate:g} and batches of {self.batch}; early is after "
            f"{self.epochs[0]} epochs, late after {self.epochs[1]}. There training stands still, and {self.draws:,} "
            "batches of each size are drawn with replacement. From the gradient of every sample, on average over "
            f"seeds: {'; '.join(scales)}.",
            "A loop that averages the loss over the batch has shorter gradients the larger the batch, down to the "
            "gradient of all data: E‖g‖² = s + V/b. One that sums it has the same gradients b times as long: bV + b²s, "
            "linear in b up to about V/s samples and quadratic beyond. Whether the norm grows with the batch size is "
            "decided by the reduction, not by the samples. A step is the gradient times the learning rate: for the "
            "same steps a sum wants a rate b times smaller.",
            "Where a few samples hold most of V, as late in training, the draws of small batches tell its mean badly, "
            "and the error of their ratio to theory is itself known badly.",
        ]
        drawing = Drawing(
            "gradient_norms",
            draw_norms(cells),
            "Norm of the gradient against batch size, early and late in training, of the sum over the batch and of the "
            "mean. Points: root mean square; thick bars hold half of the batches, thin ones 90 %, of all "
            "seeds together; lines: theory, from the gradients of single samples",
        )
        head = ("moment", "batch size", "runs", "norm of the mean ± sd", "norm of the sum ± sd", "E‖·‖²/theory, 90 %")
        return Section(paragraphs, [drawing], head, rows, findings(cells, ratios))


def _first(count: int) -> "Tensor":
    import torch

    return torch.arange(count)


def _loss(subject: Subject) -> "Loss":
    from ...fitting.losses import default_loss

    return default_loss(subject.sources()[0])


@lru_cache(maxsize=1)
def _trained(design: GradientNorms, subject: Subject, seed: int, epochs: int) -> "tuple[nn.Module, float, float]":
    """The network after so many epochs, V and s; the trials of all sizes, which come one after the other, share it."""
    import torch

    (x, y), loss, model = everything(subject.sources()[0]), _loss(subject), subject.network(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=design.rate)
    for _ in islice(plain_steps(model, loss, x, y, design.batch, optimizer, seed), -(-epochs * len(x) // design.batch)):
        pass
    return model, *_moments(model.eval(), loss, x, y)


def _moments(model: "nn.Module", loss: "Loss", x: "Tensor", y: "Tensor") -> tuple[float, float]:
    """V = Σ ‖g_i - ḡ‖² / N and s = ‖ḡ‖² over these N samples, exactly.

    Within a part of n samples Σ ‖g_i‖² = (n - 1) V̂ + n ‖g_n‖²: parts add up, and so do their gradients.
    """
    import torch

    from ...noise.measuring import measure
    from ...noise.reference import flat

    parameters = [p for p in model.parameters() if p.requires_grad]
    squares, total = 0.0, torch.zeros(())
    parts = -(-len(x) // CHUNK_SAMPLES)
    for part_x, part_y in zip(x.tensor_split(parts), y.tensor_split(parts), strict=True):
        n, found = len(part_x), measure(model, loss, part_x, part_y, method="per-example")
        squares += (n - 1) * found.variance + n * found.gradient_norm2
        gradients = torch.autograd.grad(loss(model(part_x), part_y), parameters, allow_unused=True)
        total = total + n * flat(gradients, parameters)
    signal = (total / len(x)).square().sum().item()
    return max(squares / len(x) - signal, 0.0), signal
