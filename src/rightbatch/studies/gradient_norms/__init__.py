"""How long the gradient of a mini-batch is at each batch size, as a sum over its samples and as their mean."""

from .design import GradientNorms

__all__ = ["GradientNorms"]
