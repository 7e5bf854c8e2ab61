"""A ravine, a saddle and a plateau: what batch size and optimizer do on each."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ...errors import InputError
from ...ranges import require_number, require_whole
from ..experiment import Drawing, Experiment, Result, Section, StudyTrial, rounded
from ..retuning import retune
from ..subject import Subject
from .claims import claims, steps_told
from .landscapes import (
    FLOOR,
    MOMENTUM,
    OPTIMIZERS,
    SQUARES,
    PlateauSurface,
    RavineSurface,
    SaddleSurface,
    Surface,
    descend,
    made,
)

if TYPE_CHECKING:
    from torch import Tensor

FULL = 0  # stands for all the data: the exact gradient
LOOKS = 40  # points of a path that are kept
BESIDE = 50  # steps over which paths are compared with that of the exact gradient
TUNED_AT = 16  # the batch size for which rates are tuned
TUNED_FLOOR = FLOOR / 2  # stricter, so that a rate found with other noise does not sit on the edge
TUNED = 2**31  # the seed of its noise, none of the trials'
STAYING = 0.75  # share of the steps by which the loss must have settled, to be taken as settled
SWING = 0.95  # share of the largest stable rate of gradient descent at which it swings across the ravine
SWINGS = 30  # steps it is watched for


@dataclass(frozen=True)
class Surfaces(Experiment):
    """Descend on three surfaces of two parameters with the exact gradient and with the noise of a batch.

    The gradient of one sample is the exact one plus noise of covariance σ²·I, normal and independent, so that the
    mean over a batch of b, drawn with repetition, has the covariance σ²/b·I; all the data have none. The optimizers
    are torch's own. Near the saddle, of curvature -λ, gradient descent at a rate η is y ← (1 + ηλ)·y + ησ/√b·z: noise
    from where it began grows by 1 + ηλ a step, so that leaving takes ln(b)/(2·ln(1 + ηλ)) steps more at b than at 1.

    Args:
        sizes: batch sizes, rising; 0, all the data, is added.
        sigma: σ.
        steps: of each descent.
        replicas: descents in one trial, at each batch size.
        seeds: of start and noise.
        conditions: condition numbers of the ravines on which the exact methods are timed.
    """

    sizes: tuple[int, ...] = (1, 16, 256)
    sigma: float = 0.3
    steps: int = 1000
    replicas: int = 100
    seeds: int = 5
    conditions: tuple[float, ...] = (10.0, 30.0, 100.0, 300.0, 1000.0)

    name: ClassVar[str] = "saddles"
    title: ClassVar[str] = "Saddle points, plateaus and ravines"
    question: ClassVar[str] = (
        "Where does the noise of small batches help, where does it hurt, and what do momentum, RMSProp and Adam change?"
    )
    source: ClassVar[str] = "A. Ng, Deep Learning (2017), courses 1 and 2, and the papers on each method"

    @property
    def classic(self) -> Subject:
        """Three surfaces; there is no other subject."""
        return Subject("surfaces", "two-weights")

    @property
    def all_sizes(self) -> tuple[int, ...]:
        """The batch sizes and all the data."""
        return (*self.sizes, FULL)

    @property
    def scatters(self) -> list[float]:
        """Standard deviation of a component of the gradient, by batch size."""
        return [self.sigma / math.sqrt(b) if b else 0.0 for b in self.all_sizes]

    def trials(self, subject: Subject) -> list[StudyTrial]:
        """One trial for each optimizer and seed, and one of exact ravines; all with the first seed first.

        Raises:
            InputError: a subject, of which there is no choice, or a setting out of its range.
        """
        if subject != self.classic:
            raise InputError(f"{self.name} uses its own surfaces: do not pass data or a model.")
        for name in ("steps", "replicas", "seeds"):
            require_whole(f"Surfaces.{name}", getattr(self, name), least=1)
        require_number("Surfaces.sigma", self.sigma, above=0)
        for size in self.sizes:
            require_whole("a size of Surfaces", size, least=1)
        if len(self.sizes) < 2 or list(self.sizes) != sorted(set(self.sizes)):
            raise InputError(f"Surfaces.sizes are {self.sizes}: give two or more, in increasing order.")
        for condition in self.conditions:
            require_number("a condition of Surfaces", condition, above=1)
        if len(self.conditions) < 2:
            raise InputError(f"Surfaces.conditions are {self.conditions}: a slope needs two or more.")
        return [
            StudyTrial(f"{name}, seed {seed}", {"kind": name, "seed": seed})
            for seed in range(self.seeds)
            for name in (*OPTIMIZERS, "exact ravines")
        ]

    def run(self, subject: Subject, trial: StudyTrial) -> Result:
        """Descend on all surfaces with one optimizer, or time the exact methods on ravines."""
        kind, seed = str(trial.settings["kind"]), int(trial.settings["seed"])
        if kind not in OPTIMIZERS:
            return {"kind": kind, "seed": seed, **self._exact(np.random.default_rng([seed, len(OPTIMIZERS)]))}
        rate, result = self.rate(kind), {}
        for number, surface in enumerate((RavineSurface(), SaddleSurface(), PlateauSurface())):
            start = surface.start(np.random.default_rng([seed, number]))  # of all optimizers alike
            result[surface.name] = self._descent(surface, kind, rate, start, seed)
        return {"kind": kind, "seed": seed, "rate": rate, **result}

    def rate(self, optimizer: str) -> float:
        """The one, of powers of two, with the fewest steps to the floor of the ravine at batches of 16."""
        ravine, start = RavineSurface(), (-10.0, 2.0)
        level = TUNED_FLOOR * _loss(ravine, start)

        def cost(rate: float, limit: float) -> float:
            losses = []
            for w in islice(descend(ravine, made(optimizer, rate), [scatter], start, self.replicas, TUNED), self.steps):
                losses.append(float(ravine.loss(w).mean()))
                if len(losses) > limit and not losses[-1] < level:
                    return math.inf
            return _settled(losses, level) or math.inf

        scatter = self.sigma / math.sqrt(TUNED_AT)
        return retune(cost, 1.0 if optimizer in ("SGD", "momentum") else 0.25, tries=12).rate

    def _descent(
        self, surface: Surface, optimizer: str, rate: float, start: tuple[float, float], seed: int
    ) -> dict[str, object]:
        import torch

        paths = descend(surface, made(optimizer, rate), self.scatters, start, self.replicas, seed)
        origin = torch.tensor(start, dtype=torch.float64)
        first = torch.full((len(self.scatters), self.replicas), math.inf)
        shown, losses, beside = [origin.expand(len(self.scatters), 2)], [], []
        for step, w in enumerate(islice(paths, self.steps), 1):
            first[surface.reached(w, origin) & first.isinf()] = step
            shown.append(w[:, 0])
            losses.append(surface.loss(w).mean(1))
            if step <= BESIDE:
                beside.append(((w - w[-1:]) ** 2).sum(-1).mean(1))
        each = torch.stack(losses).T.tolist()
        if isinstance(surface, RavineSurface):
            taken = [_settled(curve, FLOOR * _loss(surface, start)) for curve in each]
            taken = [step if step is not None and step <= STAYING * self.steps else None for step in taken]
        else:
            medians = first.quantile(0.5, 1, interpolation="higher").tolist()
            taken = [int(value) if math.isfinite(value) else None for value in medians]
        return {
            "steps": taken,
            "share": rounded(first.isfinite().float().mean(1).tolist()),
            "end": rounded(float(np.mean(curve[-self.steps // 4 :])) for curve in each),
            "beside": rounded(torch.stack(beside).mean(0).sqrt().tolist()),
            "paths": [_kept(torch.stack(shown)[:, i], first[i, 0].item()) for i in range(len(self.scatters))],
        }

    def _exact(self, random: np.random.Generator) -> dict[str, object]:
        """Steps of gradient descent and heavy ball at their best rates, and what they do where descent swings."""
        from torch import optim

        ratio = random.uniform(0.5, 2.0)
        taken: dict[str, list[int | None]] = {}
        for name in ("SGD", "momentum"):
            taken[name] = []
            for condition in self.conditions:
                ravine, root = RavineSurface(condition), math.sqrt(condition)
                start = (-math.sqrt(condition), ratio)  # the loss begins in both directions alike, up to the ratio
                rate, beta = 2 / (1 + 1 / condition), 0.0
                if name == "momentum":
                    rate, beta = 4 / (1 + 1 / root) ** 2, ((root - 1) / (root + 1)) ** 2

                def best(w: "list[Tensor]", rate: float = rate, beta: float = beta) -> optim.Optimizer:
                    return optim.SGD(w, lr=rate, momentum=beta)

                aim, losses = 1e-6 * _loss(ravine, start), [math.inf]
                for w in descend(ravine, best, [0.0], start, 1, 0):
                    losses.append(float(ravine.loss(w)))
                    if losses[-1] < aim / 100:
                        break
                taken[name].append(_settled(losses[1:], aim))
        swing, start = 2 * SWING, RavineSurface().start(random)
        ways = {}
        for name, rate in (("SGD", swing), ("momentum", (1 - MOMENTUM) * swing)):
            path = [start, *(tuple(w[0, 0].tolist()) for w in self._swung(name, rate, start))]
            ways[name] = rounded([float(np.abs(np.diff([y for _, y in path])).sum()), path[-1][0] / start[0]])
        return {"taken": taken, "swung": ways}

    def _swung(self, name: str, rate: float, start: tuple[float, float]) -> "list[Tensor]":
        return list(islice(descend(RavineSurface(), made(name, rate), [0.0], start, 1, 0), SWINGS))

    def section(self, subject: Subject, results: Mapping[str, Result]) -> Section:
        """The paths, how many steps they took, and the claims."""
        from .figures import path_figure, steps_figure

        runs: dict[str, list[Result]] = {}
        for result in results.values():
            runs.setdefault(str(result["kind"]), []).append(result)
        runs = {name: sorted(runs[name], key=lambda run: run["seed"]) for name in runs}
        found = {name: runs[name] for name in OPTIMIZERS if name in runs}
        names = [f"{b:,}" if b else "all" for b in self.all_sizes]
        rows = [
            (name, f"{batch[0]['rate']:g}", surface, f"{len(batch)}", *steps_told(batch, surface, len(names)))
            for surface in (RavineSurface.name, SaddleSurface.name, PlateauSurface.name)
            for name, batch in found.items()
        ]
        drawings = []
        if found:
            drawings = [
                Drawing(
                    f"{surface.name}_paths",
                    path_figure(surface, found, names),
                    f"Paths on the {surface.name}, a panel for each optimizer, a line for each batch size: the first "
                    f"replica of the first seed, up to where it first was {_place(surface)}",
                )
                for surface in (PlateauSurface(), SaddleSurface(), RavineSurface())
            ]
            about = "Steps to the goal on each surface against batch size, a line for each optimizer; at the top: never"
            drawings.append(Drawing("surface_steps", steps_figure(found, self.all_sizes, self.steps), about))
        head = ("optimizer", "rate", "surface", "runs", *(f"steps, batch {name}" for name in names))
        return Section(self._paragraphs(), drawings, head, rows, claims(runs, self.sizes, self.conditions, self.steps))

    def _paragraphs(self) -> list[str]:
        ravine, saddle, plateau = RavineSurface(), SaddleSurface(), PlateauSurface()
        return [
            f"Two parameters, no data: a ravine (x²/{ravine.condition:g} + y²)/2, a saddle of curvatures 1 and "
            f"-{saddle.curvature:g} with minima {saddle.half_width:g} away, and a plateau around a bowl of radius "
            f"{plateau.scale:g}, entered from five radii away. The largest curvature at a minimum is 1 on all three. "
            f"The gradient of one sample scatters about the exact one by σ = {self.sigma:g} in each component, that "
            "of a batch of b by σ/√b; 'all' is the exact gradient. The optimizers are torch's: momentum of "
            f"{MOMENTUM:g}, RMSProp with an average of squares of {SQUARES:g} as in its authors' lecture, Adam at its "
            f"defaults. Rates: the power of two with which batches of {TUNED_AT} take the fewest steps to the floor "
            f"of the ravine, their loss staying below {TUNED_FLOOR:.0%} of its initial value; one rate for each "
            "optimizer, the same at all batch sizes and on all surfaces.",
            f"Steps, up to {self.steps:,}: on the ravine until the loss, averaged over {self.replicas} replicas, "
            f"stays below {FLOOR:.0%} of its initial value, for at least the last quarter; elsewhere the median over "
            "the replicas of the first step within the bowl, or half the way from the saddle to a minimum. Seeds "
            "differ in start and noise; intervals hold 90 %, by Student's t over the seeds.",
            "On the saddle all descents start exactly on the line from which the exact gradient leads to the saddle. "
            "Noise grows there by 1 + ηλ a step of gradient descent, so that a batch b times larger needs "
            "ln(b)/(2·ln(1 + ηλ)) steps more. RMSProp and Adam divide by the size of the gradients, on the plateau "
            "by that of a small slope. In a small batch that size is mostly noise, and they divide by it just the "
            "same: their steps go astray where those of a large batch go down.",
        ]


def _place(surface: Surface) -> str:
    return {"ravine": "at the floor", "saddle": "half the way to a minimum", "plateau": "within the bowl"}[surface.name]


def _loss(surface: Surface, w: tuple[float, float]) -> float:
    import torch

    return float(surface.loss(torch.tensor(w, dtype=torch.float64)))


def _settled(losses: list[float], level: float) -> int | None:
    """The first step, from 1, from which on all losses are below the level; None where the last is not."""
    above = [step for step, value in enumerate(losses, 1) if not value < level]
    step = above[-1] + 1 if above else 1
    return step if step <= len(losses) else None


def _kept(path: "Tensor", until: float) -> list[list[float]]:
    """Some points of a (steps + 1, 2) path until it was there: [x's, y's]."""
    last = int(until) if math.isfinite(until) else len(path) - 1
    marks = np.unique(np.linspace(0, last, LOOKS).round().astype(int))
    return [rounded(column) for column in path[marks.tolist()].T.tolist()]
