"""How well small and large batches generalise, in equal samples, seconds and steps, however the rate is set."""

from .design import Generalisation

__all__ = ["Generalisation"]
