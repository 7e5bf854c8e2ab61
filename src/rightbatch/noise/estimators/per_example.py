"""Exact per-example gradient norms, taken during the ordinary backward pass."""

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError, UnsupportedError
from ...measurements import Measurement, StandardErrors
from ..gradient_norm import squared_norm, sum_dtype
from ..layers import coverage
from ..layers.reading import NormReader
from .estimator import Estimator
from .grad_hooks import GradHooks
from .passes import Pass


class PerExampleNorms(Estimator):
    """Reads ‖c_i‖², c_i the contribution of sample i to the gradient as computed, and leaves that computation alone.

    Assumes that the first dimension of every layer's input counts the samples, and that the loss is a mean or sum of
    terms of one sample each. Nothing is registered on the model while disarmed.

        norms = PerExampleNorms(model)
        norms.arm(len(x))
        loss(model(x), y).backward()
        norms.disarm()
        measurement = norms.measurement(squared_norm(p.grad for p in model.parameters()), len(x))

    | symbol | meaning |
    |---|---|
    | G = Σ c_i | the gradient of a mean loss over b samples |
    | S = Σ ‖c_i‖² | what the hooks sum |
    | V̂ = b²/(b-1) (S - ‖G‖²/b) | unbiased for the trace of the covariance of one sample's gradient |
    | ŝ = ‖G‖² - V̂/b | unbiased for the squared norm of the true gradient |

    Reference: Goodfellow, "Efficient per-example gradient computations" (2015), extended to convolutions, embeddings
    and normalisation; McCandlish, Kaplan, Amodei, "An empirical model of large-batch training" (2018), for V and s.

    Args:
        model: the model, in the mode it will be trained in.
        reading: how each layer is read; exactly unless told otherwise.
        only: the modules whose parameters are measured, ‖G‖² being taken over the same; None for all.
        projections: also measure the variance of ⟨g_i, g_B⟩; keeps every layer's input and output gradient of the
            batch, and costs about a forward pass.

    Raises:
        UnsupportedError: the model has parts without an exact rule; the message names them.
    """

    uncovered = staticmethod(coverage.uncovered)
    name = "per-example"
    gathers = True

    def __init__(
        self,
        model: nn.Module,
        reading: NormReader | None = None,
        only: Collection[nn.Module] | None = None,
        projections: bool = False,
    ) -> None:
        self._reading = reading or NormReader()
        self._projections = projections
        self._hooks = GradHooks(model, keep=projections, reading=self._reading, only=only)
        self._passes: list[Pass] = []
        self._part = self._hooks.covered if only is not None else None

    @property
    def description(self) -> str:
        """How it measures, in words."""
        return self._reading.description

    def arm(self, samples: int) -> None:
        """Watch the next forward and backward pass, of one micro-batch of `samples`.

        It adds to the micro-batches armed before, back to the last `disarm`.
        """
        if not self._hooks.attached:
            self.clear()
        self._passes.append(self._hooks.begin(samples))

    def pass_over(self, samples: int) -> None:
        if self._hooks.attached:
            self._hooks.begin(samples)

    def disarm(self) -> None:
        """Take every hook off the model and end the batch: it can still be read, until `arm` begins the next."""
        self._hooks.remove()

    def clear(self) -> None:
        """Forget what was seen."""
        self._passes.clear()
        self._hooks.forget()
        self._reading.clear()

    def audit(self, samples: int) -> None:
        """Hold what is estimated in the next micro-batch against exact norms, on `samples` of its samples."""
        self._reading.audit(samples)

    def verify(self, loss: Tensor) -> None:
        """Walk the graph of one loss and refuse parameters that act otherwise than in their layers.

        Such are weights tied by a function call and penalty terms: hooks on layers cannot see them. The first call,
        between the forward pass armed for and its backward pass, settles it for a model whose forward pass does not
        change; later ones do nothing.

        Raises:
            UnsupportedError: naming the layers.
        """
        self._hooks.verify(loss)

    def measurement(self, gradient_norm2: float, samples: int, scale: float = 1.0) -> Measurement:
        """The noise of the batch seen so far; a batch enlarged afterwards is armed again and read again.

        Args:
            gradient_norm2: ‖G‖² of the mean gradient, over all trainable parameters.
            samples: b, the sum over the micro-batches armed.
            scale: factor from the contributions as computed to those of G, such as 1/b if micro-batches were summed.

        Returns:
            The standard error of its variance is from the spread of ‖c_i‖² and takes G as known; the others are nan.

        Raises:
            InputError: fewer than 2 samples.
            UnsupportedError: a layer was not seen in some pass, or not all samples were.
        """
        if samples < 2:
            raise InputError(f"the variance of {samples} sample is not defined; measure at least 2")
        seen = sum(run.samples for run in self._passes)
        for run in self._passes:
            self._hooks.check(run)
        weighted = self._reading.gradient_norm2(self._hooks.covered)
        if weighted is not None:
            gradient_norm2 = weighted * scale * scale
        elif self._part is not None:
            gradient_norm2 = squared_norm(p.grad for p in self._part) * scale * scale
        # where only some rows are read each counts for as many as its micro-batch has samples to a row
        parts = [(run.samples, self._hooks.norms2(run)) for run in self._passes]
        own = [0.0, 0.0]
        if parts:
            each = [norms2 if count == len(norms2) else norms2 * (count / len(norms2)) for count, norms2 in parts]
            norms2 = each[0] if len(each) == 1 else torch.cat(each)
            own = torch.stack([norms2.sum(), norms2.dot(norms2)]).tolist()  # the one read from the device
        products = self._products(scale * scale * samples, gradient_norm2) if self._projections else [0.0, 0.0]
        read = sum(len(norms2) for _, norms2 in parts)
        pooled = self.gather_numbers([float(seen), float(read), *own, *products])
        armed, read_of_all, total, squares, excess, excess2 = (math.fsum(c) for c in zip(*pooled, strict=True))
        if armed != samples:
            raise UnsupportedError(f"{armed:.0f} of the batch's {samples} samples were armed; arm every micro-batch")
        b, rows, scale2 = samples, int(read_of_all), scale * scale
        unit = scale2 * b * b  # from ‖c_i‖² to the squared norm of one sample's own gradient
        variance = (unit * total - b * gradient_norm2) / (b - 1)
        total, squares = total * (rows / b), squares * (rows / b) ** 2
        spread = unit * math.sqrt(max(squares - total * total / rows, 0.0) / (rows - 1) / rows)
        return Measurement(
            samples=b,
            gradient_norm2=gradient_norm2,
            variance=variance,
            signal=gradient_norm2 - variance / b,
            standard_error=StandardErrors(spread, math.nan, math.nan),
            method=self._reading.name,
            metric=self._reading.metric,
            layers=self._hooks.layers_read,
            audit=self._reading.audited(),
            projection_variance=(excess2 - excess * excess / b) / (b - 1) if self._projections else math.nan,
        )

    def _products(self, unit: float, gradient_norm2: float) -> list[float]:
        """The sums of ⟨g_i, g_B⟩ - ‖g_B‖² and of its square, ⟨g_i, g_B⟩ being b·scale² ⟨c_i, Σ c⟩."""
        sums: dict[Tensor, Tensor | None] = {p: p.grad for p in self._hooks.covered}
        if not self._passes:
            return [0.0, 0.0]
        products = torch.cat([self._hooks.products(run, sums) for run in self._passes])
        excess = products.to(sum_dtype(products.device)) * unit - gradient_norm2
        found: list[float] = torch.stack([excess.sum(), excess.dot(excess)]).tolist()
        return found

    def reseed(self, seed: str) -> None:
        self._reading.reseed(seed)

    def state_dict(self) -> dict[str, Any]:
        return self._reading.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._reading.load_state_dict(state)
