"""Clipping: the gradient of the whole batch, once, after it was measured."""

import math
from dataclasses import dataclass

from ..errors import InputError
from ..ranges import require_number
from .gradients import Gradients, read

EPSILON = 1e-6  # as in torch.nn.utils.clip_grad_norm_
LARGEST = 1e30  # beyond, a bound in float32 bounds nothing


@dataclass(slots=True)
class Clip:
    """Bounds the gradient of each step by its norm, or each entry by its size.

    Args:
        norm: the largest norm; None for no bound.
        value: the largest size of an entry; None for no bound.
        once: a norm for the batch under way only, in place of `norm`.
        steps: how many steps were clipped by their norm so far, of how many.

    Raises:
        InputError: a bound that is not positive, or both.
    """

    norm: float | None = None
    value: float | None = None
    once: float | None = None
    clipped: int = 0
    steps: int = 0
    slope: float = math.nan  # ⟨g, d⟩ of the last gradient g and what it was clipped to, d

    def __post_init__(self) -> None:
        for name, bound in (("clip_norm", self.norm), ("clip_value", self.value)):
            if bound is not None:
                require_number(name, bound, above=0)
                if bound > LARGEST:
                    raise InputError(f"{name} is {bound:g}: give a number up to {LARGEST:g}, or None for no bound.")
        if self.norm is not None and self.value is not None:
            raise InputError("clip_norm and clip_value are both given: give one of them.")

    def apply(self, gradients: Gradients, scale: float, norm2: float, times: int) -> float:
        """Multiply gradients by `scale` and clip them; return the squared norm of what is left.

        Args:
            gradients: of the batch, as gathered.
            scale: factor to the gradient of the mean loss.
            norm2: squared norm of the latter.
            times: by how much more steps go along it; the bound is for the product.
        """
        bound = self.norm if self.once is None else self.once
        factor = 1.0
        if bound is not None:
            factor = min(1.0, bound / (math.sqrt(norm2) * times + EPSILON))
            self.steps += 1
            self.clipped += factor < 1.0
        gradients.scale_(scale * times * factor)
        self.slope = norm2 * factor
        if self.value is not None:
            self.slope = gradients.clip_value_(float(self.value)) / times
            return sum(read(gradients.norms2())) / times**2
        return norm2 * factor * factor
