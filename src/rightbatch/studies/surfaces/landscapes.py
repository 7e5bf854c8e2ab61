"""A ravine, a saddle and a plateau in two parameters, and descents on them by gradients with a batch's noise."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from torch.optim import Optimizer

MOMENTUM = 0.9
SQUARES = 0.9  # of RMSProp: the weight of the mean square before, as its authors have it
OPTIMIZERS = ("SGD", "momentum", "RMSProp", "Adam")
FLOOR = 0.02  # of the loss at the start: below it is the ravine's floor


class Surface(ABC):
    """A loss of two parameters whose largest curvature at its minima is 1, and the place to get to.

    `w` is (..., 2) throughout; `window` is what a figure shows, as (left, right, bottom, top).
    """

    name: ClassVar[str]
    goal: ClassVar[str]
    window: ClassVar[tuple[float, float, float, float]]

    @abstractmethod
    def loss(self, w: "Tensor") -> "Tensor":
        """(...)."""

    @abstractmethod
    def gradient(self, w: "Tensor") -> "Tensor":
        """(..., 2)."""

    @abstractmethod
    def start(self, random: "np.random.Generator") -> tuple[float, float]:
        """Where a descent begins."""

    @abstractmethod
    def reached(self, w: "Tensor", start: "Tensor") -> "Tensor":
        """Whether it is where it is to get to, (...)."""


@dataclass(frozen=True)
class RavineSurface(Surface):
    """f = (x²/κ + y²)/2, κ the condition number: steep across, nearly level along."""

    condition: float = 50.0

    name: ClassVar[str] = "ravine"
    goal: ClassVar[str] = f"mean loss below {FLOOR:.0%} of the start's for good"
    window: ClassVar[tuple[float, float, float, float]] = (-12.5, 5.5, -4.5, 4.5)

    def loss(self, w: "Tensor") -> "Tensor":
        """See the class."""
        return (w[..., 0] ** 2 / self.condition + w[..., 1] ** 2) / 2

    def gradient(self, w: "Tensor") -> "Tensor":
        """See the class."""
        return w * w.new_tensor([1 / self.condition, 1.0])

    def start(self, random: "np.random.Generator") -> tuple[float, float]:
        """Far along the floor and some way up the wall."""
        return -10 * random.uniform(0.85, 1.15), 2 * random.uniform(0.75, 1.25)

    def reached(self, w: "Tensor", start: "Tensor") -> "Tensor":
        """At the floor."""
        return self.loss(w) < FLOOR * self.loss(start)


@dataclass(frozen=True)
class SaddleSurface(Surface):
    """f = x²/2 + λ(y⁴/(4h²) - y²/2), curvatures 1 and -λ at the saddle, minima at y = ±h, where that along y is 2λ.

    The exact gradient at y = 0 has no part along y: that line is the saddle's stable manifold.
    """

    curvature: float = 0.05
    half_width: float = 8.0

    name: ClassVar[str] = "saddle"
    goal: ClassVar[str] = "half the way to a minimum"
    window: ClassVar[tuple[float, float, float, float]] = (-12.5, 9.0, -9.0, 9.0)

    def loss(self, w: "Tensor") -> "Tensor":
        """See the class."""
        x, y = w.unbind(-1)
        return x**2 / 2 + self.curvature * (y**4 / (4 * self.half_width**2) - y**2 / 2)

    def gradient(self, w: "Tensor") -> "Tensor":
        """See the class."""
        import torch

        x, y = w.unbind(-1)
        return torch.stack([x, self.curvature * y * (y**2 / self.half_width**2 - 1)], -1)

    def start(self, random: "np.random.Generator") -> tuple[float, float]:
        """Exactly on the stable manifold."""
        return -8 * random.uniform(0.75, 1.25), 0.0

    def reached(self, w: "Tensor", start: "Tensor") -> "Tensor":
        """Half the way to a minimum."""
        return w[..., 1].abs() > self.half_width / 2


@dataclass(frozen=True)
class PlateauSurface(Surface):
    """f = s²/2 · q/(1 + q), q = (x² + y²)/s²: a bowl of radius about s in a plain whose slope falls as 1/r³."""

    scale: float = 2.0

    name: ClassVar[str] = "plateau"
    goal: ClassVar[str] = "within the bowl"
    window: ClassVar[tuple[float, float, float, float]] = (-17.0, 6.0, -6.0, 13.0)

    def loss(self, w: "Tensor") -> "Tensor":
        """See the class."""
        q = (w**2).sum(-1) / self.scale**2
        return self.scale**2 / 2 * q / (1 + q)

    def gradient(self, w: "Tensor") -> "Tensor":
        """See the class."""
        return w / (1 + (w**2).sum(-1, keepdim=True) / self.scale**2) ** 2

    def start(self, random: "np.random.Generator") -> tuple[float, float]:
        """Five radii out."""
        angle = math.pi * random.uniform(0.6, 0.95)
        return 5 * self.scale * math.cos(angle), 5 * self.scale * math.sin(angle)

    def reached(self, w: "Tensor", start: "Tensor") -> "Tensor":
        """Within one radius, where half of the loss is gone."""
        return (w**2).sum(-1) < self.scale**2


def made(name: str, rate: float) -> "Callable[[list[Tensor]], Optimizer]":
    """The optimizer of torch of this name; its defaults but for the rate, momentum, and the average of RMSProp."""
    from torch import optim

    return {
        "SGD": lambda w: optim.SGD(w, lr=rate),
        "momentum": lambda w: optim.SGD(w, lr=rate, momentum=MOMENTUM),
        "RMSProp": lambda w: optim.RMSprop(w, lr=rate, alpha=SQUARES),
        "Adam": lambda w: optim.Adam(w, lr=rate),
    }[name]


def descend(
    surface: Surface,
    optimizer: "Callable[[list[Tensor]], Optimizer]",
    scatters: Sequence[float],
    start: tuple[float, float],
    replicas: int,
    seed: int,
) -> "Iterator[Tensor]":
    """Descend without end, all replicas at all noises at once; these optimizers treat every parameter by itself.

    Args:
        surface: on which.
        optimizer: over a list of parameters.
        scatters: standard deviations of each component of the gradient; 0 is the exact one.
        start: the same for all.
        replicas: descents at each scatter.
        seed: of the noise.

    Yields:
        (scatters, replicas, 2) parameters in double precision, after each step.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    shape = (len(scatters), replicas, 2)
    w = torch.tensor(start, dtype=torch.float64).expand(shape).clone().requires_grad_()
    scatter = torch.tensor(scatters, dtype=torch.float64)[:, None, None]
    stepper = optimizer([w])
    while True:
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        w.grad = surface.gradient(w.detach()) + scatter * noise
        stepper.step()
        yield w.detach().clone()
