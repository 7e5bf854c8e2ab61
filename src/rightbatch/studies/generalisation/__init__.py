"""How well small and large batches generalise, in equal examples, seconds and steps, however the rate is set."""

from .design import Generalisation

__all__ = ["Generalisation"]
