"""The gradient noise from the gradients of micro-batches: for any model, free where gradients accumulate anyway."""

import math

from ..errors import InputError, UnsupportedError
from ..evidence import Measurement, StandardErrors


class MicroBatchNorms:
    """Collects ‖g_j‖² of the mean gradient of each micro-batch j, and compares them with that of the whole batch.

    V̂ = (Σ_j m_j ‖g_j‖² - b ‖ḡ‖²) / (J - 1),  ŝ = ‖ḡ‖² - V̂/b

    | symbol | argument | meaning |
    |---|---|---|
    | m_j | add(examples) | examples in micro-batch j |
    | g_j | add(gradient_norm2) | its mean gradient |
    | ḡ = Σ m_j g_j / b | measurement(gradient_norm2) | mean gradient of the batch |
    | b = Σ m_j, J | | examples and micro-batches |

    Both are unbiased for any split, which has to be made without regard to the examples. With s = ‖g‖² and V = tr Σ,
    E‖g_j‖² = s + V/m_j and E‖ḡ‖² = s + V/b, so that E Σ m_j ‖g_j‖² - b E‖ḡ‖² = (b s + J V) - (b s + V) = (J - 1) V.

    Reference: McCandlish, Kaplan, Amodei, "An empirical model of large-batch training" (2018), appendix A.1, for two
    batch sizes; here for J micro-batches of any sizes.
    """

    def __init__(self) -> None:
        self._groups: list[tuple[int, float]] = []

    def add(self, examples: int, gradient_norm2: float) -> None:
        """Note one micro-batch: its size m_j and the squared norm of its mean gradient."""
        if examples < 1:
            raise InputError(f"a micro-batch of {examples} examples was added; at least 1 is needed")
        self._groups.append((examples, gradient_norm2))

    def clear(self) -> None:
        """Forget what was added."""
        self._groups.clear()

    def measurement(self, gradient_norm2: float, examples: int, reason: str = "") -> Measurement:
        """The noise of the batch whose micro-batches were added since the last `clear`.

        Args:
            gradient_norm2: ‖ḡ‖².
            examples: b.
            reason: why this estimator is used.

        Returns:
            The standard error of its variance is from the spread over micro-batches, nan for two; the others are nan.

        Raises:
            InputError: the micro-batches do not add up to b.
            UnsupportedError: fewer than 2 micro-batches.
        """
        groups = self._groups
        count = len(groups)
        if sum(m for m, _ in groups) != examples:
            raise InputError(f"{sum(m for m, _ in groups)} examples were added of a batch of {examples}; add each once")
        if count < 2:
            raise UnsupportedError(f"the noise cannot be told from {count} micro-batch; split the batch into 2 or more")
        variance = (math.fsum(m * norm2 for m, norm2 in groups) - examples * gradient_norm2) / (count - 1)
        signal = gradient_norm2 - variance / examples
        error = math.nan
        if count > 2:
            # m_j(‖g_j‖² - s) has expectation V in every micro-batch, whatever its size
            each = [m * (norm2 - signal) for m, norm2 in groups]
            mean = math.fsum(each) / count
            error = math.sqrt(math.fsum((v - mean) ** 2 for v in each) * count) / (count - 1) ** 1.5
        return Measurement(
            examples=examples,
            gradient_norm2=gradient_norm2,
            variance=variance,
            signal=signal,
            standard_error=StandardErrors(error, math.nan, math.nan),
            method="micro-batch",
            reason=reason,
        )
