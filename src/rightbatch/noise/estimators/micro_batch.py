"""The gradient noise from the gradients of micro-batches: for any model, free where gradients accumulate anyway."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from ...errors import InputError, UnsupportedError
from ...measurements import Measurement, StandardErrors
from ..gradient_norm import squared_norm
from ..preconditioner import TRAINING_FLOOR, Preconditioner
from .estimator import Estimator

ROUNDING = 1e-9  # relative, of sizes that follow from weights


class MicroBatchNorms:
    """Collects ‖g_j‖² of the mean gradient of each micro-batch j, and compares them with that of the whole batch.

    V̂ = (Σ_j m_j ‖g_j‖² - b ‖ḡ‖²) / (J - 1),  ŝ = ‖ḡ‖² - V̂/b

    | symbol | argument | meaning |
    |---|---|---|
    | m_j | add(samples) | samples in micro-batch j |
    | g_j | add(gradient_norm2) | its mean gradient |
    | ḡ = Σ m_j g_j / b | measurement(gradient_norm2) | mean gradient of the batch |
    | b = Σ m_j, J | | samples and micro-batches |

    Both are unbiased for any split, which has to be made without regard to the samples. With s = ‖g‖² and V = tr Σ,
    E‖g_j‖² = s + V/m_j and E‖ḡ‖² = s + V/b, so that E Σ m_j ‖g_j‖² - b E‖ḡ‖² = (b s + J V) - (b s + V) = (J - 1) V.

    Reference: McCandlish, Kaplan, Amodei, "An empirical model of large-batch training" (2018), appendix A.1, for two
    batch sizes; here for J micro-batches of any sizes.
    """

    def __init__(self) -> None:
        self._groups: list[tuple[float, float]] = []

    @property
    def groups(self) -> tuple[tuple[float, float], ...]:
        """(m_j, ‖g_j‖²) of what was added."""
        return tuple(self._groups)

    def add(self, samples: float, gradient_norm2: float) -> None:
        """Note one micro-batch: its size m_j and the squared norm of its mean gradient."""
        if not samples > 0:
            raise InputError(f"a micro-batch of {samples} samples was added; at least 1 is needed")
        self._groups.append((samples, gradient_norm2))

    def clear(self) -> None:
        """Forget what was added."""
        self._groups.clear()

    def measurement(self, gradient_norm2: float, samples: int, reason: str = "") -> Measurement:
        """The noise of the batch whose micro-batches were added since the last `clear`.

        Args:
            gradient_norm2: ‖ḡ‖².
            samples: b.
            reason: why this estimator is used.

        Returns:
            The standard error of its variance is from the spread over micro-batches, nan for two; the others are nan.

        Raises:
            InputError: the micro-batches do not add up to b, or are fewer than 2.
        """
        groups = self._groups
        count = len(groups)
        if abs(sum(m for m, _ in groups) - samples) > ROUNDING * samples:
            raise InputError(f"{sum(m for m, _ in groups)} samples were added of a batch of {samples}; add each once")
        if count < 2:
            raise InputError(f"the noise cannot be told from {count} micro-batch; split the batch into 2 or more")
        variance = (math.fsum(m * norm2 for m, norm2 in groups) - samples * gradient_norm2) / (count - 1)
        signal = gradient_norm2 - variance / samples
        error = math.nan
        if count > 2:
            # m_j(‖g_j‖² - s) has expectation V in every micro-batch, whatever its size
            each = [m * (norm2 - signal) for m, norm2 in groups]
            mean = math.fsum(each) / count
            error = math.sqrt(math.fsum((v - mean) ** 2 for v in each) * count) / (count - 1) ** 1.5
        return Measurement(
            samples=samples,
            gradient_norm2=gradient_norm2,
            variance=variance,
            signal=signal,
            standard_error=StandardErrors(error, math.nan, math.nan),
            method="micro-batch",
            reason=reason,
        )


class MicroBatches(Estimator):
    """Looks at the gradient of each micro-batch of a batch on its own; see `MicroBatchNorms` for the formula.

    Gradients are set aside one by one and added up in the end, so that the batch's is the same but for rounding. Where
    there are several processes, the micro-batches of all are compared.

    Args:
        parameters: the trainable parameters.
        groups: micro-batches to cut a batch into, where memory does not ask for more.
        metric: measure P g in place of g, P the preconditioner of this optimizer.
        projections: also measure the variance of ⟨g_i, g_B⟩, as Σ_j m_j (⟨g_j, ḡ⟩ - ‖ḡ‖²)² / (J - 1); keeps the
            gradient of every micro-batch.

    Raises:
        UnsupportedError: the optimizer's preconditioner is not known, or projections are wanted in its metric.
    """

    name: ClassVar[str] = "micro-batch"
    gathers: ClassVar[bool] = True

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        groups: int = 4,
        metric: torch.optim.Optimizer | None = None,
        projections: bool = False,
    ) -> None:
        if projections and metric is not None:
            raise UnsupportedError("projections on the gradient are not measured in the optimizer's metric")
        self._each: list[tuple[float, list[Tensor | None]]] | None = [] if projections else None
        self.groups = groups
        self._parameters = parameters
        self._norms = MicroBatchNorms()
        self._set_aside: list[Tensor | None] = []
        self._optimizer = metric
        self._preconditioner: Preconditioner | None = None
        self._too_early: InputError | None = None
        if metric is not None:
            with suppress(InputError):  # it has not stepped yet; of a kind that is not known it is refused
                Preconditioner(metric)

    @property
    def description(self) -> str:
        """How it measures, in words."""
        metric = f", in the metric of {type(self._optimizer).__name__}" if self._optimizer is not None else ""
        return f"the gradients of {self.groups} micro-batches{metric}"

    def take(self, samples: int, weight: float) -> None:
        """Note the norm of this micro-batch's gradient and set it aside."""
        gradients = [p.grad for p in self._parameters]
        self._norms.add(weight, self._norm2() / weight**2)
        if self._each is not None:
            self._each.append((weight, [None if g is None else g.clone().div_(weight) for g in gradients]))
        if not self._set_aside:
            self._set_aside = gradients
        else:
            for i, gradient in enumerate(gradients):
                earlier = self._set_aside[i]
                if gradient is not None:
                    self._set_aside[i] = gradient if earlier is None else earlier.add_(gradient)
        for parameter in self._parameters:
            parameter.grad = None

    def gather(self) -> None:
        """Put the sum of the micro-batches' gradients back into the parameters."""
        if self._set_aside:
            for parameter, gradient in zip(self._parameters, self._set_aside, strict=True):
                parameter.grad = gradient
            self._set_aside = []

    def reopen(self) -> None:
        """Set the sum aside again: each further micro-batch's gradient must be seen on its own."""
        self._set_aside = [p.grad for p in self._parameters]
        for parameter in self._parameters:
            parameter.grad = None

    def measurement(self, gradient_norm2: float, samples: int, scale: float = 1.0) -> Measurement:
        """The noise of the batch gathered.

        Raises:
            InputError: it was one micro-batch, or the optimizer has not stepped and has no metric yet.
        """
        if self._too_early is not None:
            raise self._too_early
        if self._preconditioner is not None:
            gradient_norm2 = self._norm2() * scale * scale
        own = [self._projections(gradient_norm2, scale)] if self._each is not None else [0.0]
        pooled = self.gather_numbers([*own, *(number for group in self._norms.groups for number in group)])
        weights = math.fsum(weight for row in pooled for weight in row[1::2])
        norms = MicroBatchNorms()
        for _, *numbers in pooled:
            for weight, norm2 in zip(numbers[::2], numbers[1::2], strict=True):
                norms.add(samples * weight / weights, norm2)  # m_j: units stand for as many samples as they weigh
        found = norms.measurement(gradient_norm2, samples)
        if self._each is not None:
            projections = math.fsum(row[0] for row in pooled) * samples / weights
            return replace(found, projection_variance=projections / (len(norms.groups) - 1))
        return found if self._preconditioner is None else replace(found, metric=self._preconditioner.name)

    def _projections(self, gradient_norm2: float, scale: float) -> float:
        """Σ_j w_j (⟨g_j, ḡ⟩ - ‖ḡ‖²)², of this process."""
        assert self._each is not None
        mean = [p.grad for p in self._parameters]
        total = 0.0
        for weight, gradients in self._each:
            pairs = zip(gradients, mean, strict=True)
            product = sum(
                torch.dot(g.flatten(), G.flatten()).item() for g, G in pairs if g is not None and G is not None
            )
            total += weight * (scale * product - gradient_norm2) ** 2
        return total

    def disarm(self) -> None:
        """Forget the batch."""
        self._norms.clear()
        if self._each is not None:
            self._each = []
        self._set_aside = []
        self._preconditioner = self._too_early = None

    def _norm2(self) -> float:
        """‖g‖² of the gradients in the parameters, or ‖P g‖² with P as it stands before this step."""
        if self._optimizer is None:
            return squared_norm(p.grad for p in self._parameters)
        try:
            self._preconditioner = self._preconditioner or Preconditioner(self._optimizer, TRAINING_FLOOR)
            return squared_norm(_conditioned(p, self._preconditioner) for p in self._parameters)
        except InputError as error:  # it has not stepped, or not with every parameter
            self._too_early = error
            return math.nan


def _conditioned(parameter: Tensor, preconditioner: Preconditioner) -> Tensor | None:
    if parameter.grad is None:
        return None
    diagonal = preconditioner.diagonal(parameter)
    return parameter.grad if diagonal is None else parameter.grad * diagonal
