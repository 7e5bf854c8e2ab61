"""Training steps that also measure the gradient noise: Rightbatch's, those of other libraries, and the plain step.

A step is zero_grad, forward, loss, backward and fused SGD with momentum. One that measures comes to Σ‖g_i‖² and
‖g_B‖², and from these to V̂; each library is used in the cheapest way that gives these numbers.
"""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rightbatch
from rightbatch.data import Source
from rightbatch.loop.noise_meter import NoiseMeter
from rightbatch.noise import Noise, squared_norm

LEARNING_RATE = 1e-3
# Of gradients formed at once by vmap: on the CPU the fastest from 2^19 to 2^27 on most of the networks timed.
CHUNK_FLOATS = {"cpu": 1 << 23, "cuda": 1 << 28}


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Of classes, or of tokens."""
    return F.cross_entropy(output.movedim(-1, 1), target)


@dataclass(frozen=True)
class Work:
    """What is trained: a network and one batch, the same for every step."""

    make: Callable[[], nn.Module]
    x: Tensor
    y: Tensor

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return self.make().to(self.x.device)


class Step(ABC):
    """A way to take steps; the first answers V̂ at the parameters that all ways begin with, or nan."""

    name: ClassVar[str]

    def __init__(self, work: Work) -> None:
        self.x, self.y = work.x, work.y
        self.model = work.model()
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.SGD(self.parameters, lr=LEARNING_RATE, momentum=0.9, fused=True)

    @abstractmethod
    def __call__(self) -> float: ...

    def variance(self, total: float) -> float:
        """V̂ = (Σ‖g_i‖² - b‖g_B‖²)/(b - 1)."""
        b = len(self.x)
        return (total - b * squared_norm(p.grad for p in self.parameters)) / (b - 1)


class Plain(Step):
    name = "plain"

    def __call__(self) -> float:
        self.optimizer.zero_grad()
        cross_entropy(self.model(self.x), self.y).backward()
        self.optimizer.step()
        return math.nan


class Measured(Step):
    """Measured at every step by the meter of training, as `AutoBatch` calls it."""

    method = "auto"

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        self.meter = NoiseMeter(self.model, self.parameters, Noise(self.method, every=1), self.optimizer)

    def __call__(self) -> float:
        meter, b = self.meter, len(self.x)
        self.optimizer.zero_grad()
        for x, y in zip(self.x.tensor_split(meter.groups), self.y.tensor_split(meter.groups), strict=True):
            weight = len(x) / b
            meter.arm(len(x))
            loss = cross_entropy(self.model(x), y)
            meter.verify(loss)
            (loss if weight == 1 else loss * weight).backward()
            meter.take(len(x), weight)
        meter.gather()
        found = meter.measure(squared_norm(p.grad for p in self.parameters), b, 1.0)
        meter.disarm()
        self.optimizer.step()
        return found.variance if found is not None else math.nan


class Default(Measured):
    name = "default method, every step"


class Exact(Measured):
    name = "exact, every step"
    method = "per-example"


class Idle(Plain):
    """A meter that has measured once and is not measuring."""

    name = "not measuring"

    def __init__(self, work: Work) -> None:
        measured = Default(work)
        measured()
        super().__init__(work)
        self.model, self.parameters, self.meter = measured.model, measured.parameters, measured.meter
        self.optimizer = measured.optimizer


class Loop(Step):
    """A loop around `AutoBatch` with the default budget."""

    name = "default setting, 3 % of the time"

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        self.auto = rightbatch.AutoBatch(
            self.model, self.optimizer, _Ready(work), batch_size=len(work.x), epochs=1, noise=Noise()
        )
        self.batches: Iterator[tuple[Tensor, Tensor]] = iter(self.auto)
        self.measurements = 0

    def __call__(self) -> float:
        x, y = next(self.batches)
        while True:
            self.auto.backward(cross_entropy(self.model(x), y))
            if self.auto.step():
                return math.nan
            x, y = next(self.batches)

    @property
    def measured(self) -> bool:
        """Whether the noise was measured since this was last asked."""
        before = self.measurements
        self.measurements = self.auto.noise.measurements if self.auto.noise is not None else 0
        return self.measurements > before


class _Ready(Source):
    """As many samples as wanted, all of them those of one batch: fetching them takes no time."""

    def __init__(self, work: Work) -> None:
        self.x, self.y = work.x, work.y
        self.x_shape, self.y_shape = tuple(work.x.shape[1:]), tuple(work.y.shape[1:])
        self.x_dtype, self.y_dtype = work.x.dtype, work.y.dtype
        self.y_range, self.notes = None, ()

    def __len__(self) -> int:
        return len(self.x) * 10**6

    def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.x[: len(indices)], self.y[: len(indices)]


class BackPACK(Step):
    """`BatchL2Grad`: squared norms from the ordinary backward pass."""

    name = "BackPACK"

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        import backpack
        from backpack.extensions import BatchL2Grad

        self.backpack, self.extension = backpack.backpack, BatchL2Grad
        backpack.extend(self.model)

    def __call__(self) -> float:
        b = len(self.x)
        self.optimizer.zero_grad()
        loss = cross_entropy(self.model(self.x), self.y)
        with self.backpack(self.extension()):
            loss.backward()
        own = [(module, p) for module in self.model.modules() for p in module.parameters(recurse=False)]
        lacking = dict.fromkeys(type(module).__name__ for module, p in own if not hasattr(p, "batch_l2"))
        if lacking:
            raise TypeError(f"leaves out the parameters of {', '.join(lacking)}, and says nothing")
        total = float(torch.stack([p.batch_l2 for p in self.parameters]).sum()) * b * b
        found = self.variance(total)
        for p in self.parameters:
            del p.batch_l2
        self.optimizer.step()
        return found


class Opacus(Step):
    """Ghost norms (formed gradients where it has none) and one backward pass; clipping by them would take a second."""

    name = "Opacus"

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        from opacus.grad_sample import GradSampleModuleFastGradientClipping

        self.wrapped = GradSampleModuleFastGradientClipping(self.model, loss_reduction="mean", use_ghost_clipping=True)

    def __call__(self) -> float:
        self.optimizer.zero_grad()
        cross_entropy(self.wrapped(self.x), self.y).backward()
        found = self.variance(float(self.wrapped.get_norm_sample().square().sum()))
        self.optimizer.step()
        return found


class VmapGrad(Step):
    """`torch.func.vmap(grad(loss))` over a few samples at a time in place of the backward pass."""

    name = "vmap(grad)"

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        self.named = dict(self.model.named_parameters())

        def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            output = torch.func.functional_call(self.model, parameters, (x.unsqueeze(0),))
            return cross_entropy(output, y.unsqueeze(0))

        self.gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
        self.rows = max(1, CHUNK_FLOATS[self.x.device.type] // sum(p.numel() for p in self.parameters))

    def __call__(self) -> float:
        b, total = len(self.x), torch.zeros((), dtype=torch.float64)
        self.optimizer.zero_grad()
        values = {name: p.detach() for name, p in self.named.items()}
        for x, y in zip(self.x.split(self.rows), self.y.split(self.rows), strict=True):
            for name, g in self.gradients(values, x, y).items():
                total += g.square().sum().double().cpu()
                p, mean = self.named[name], g.sum(0).div_(b)
                p.grad = mean if p.grad is None else p.grad.add_(mean)
        found = self.variance(float(total))
        self.optimizer.step()
        return found


OWN: tuple[type[Step], ...] = (Default, Exact, Idle)
PEERS: tuple[type[Step], ...] = (BackPACK, Opacus, VmapGrad)
PACKAGES = {BackPACK: "backpack-for-pytorch", Opacus: "opacus"}


def missing() -> dict[type[Step], str]:
    """The peers that are not installed, and their packages."""
    return {peer: package for peer, package in PACKAGES.items() if _version(package) is None}


def peers() -> str:
    """Which peers there are, of which version."""
    found = [f"{peer.name} {_version(package)}" for peer, package in PACKAGES.items() if _version(package)]
    absent = [f"{package} is not installed" for package in missing().values()]
    return ", ".join([*found, *absent])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def start(kind: type[Step], work: Work) -> tuple[Step | None, float, str]:
    """A way set up and its first step taken: V̂, or why the library refuses this network."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the peers' own
            step = kind(work)
            return step, step(), ""
    except Exception as error:  # whatever a library raises for what it does not support
        if kind not in PEERS and not isinstance(error, rightbatch.RightbatchError):
            raise
        return None, math.nan, _reason(error)


def _reason(error: Any) -> str:
    text = " ".join(str(error).split()).split(". ")[0]
    return f"{text[:90].rstrip()}…" if len(text) > 90 else text
