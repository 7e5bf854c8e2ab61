"""The noise scale while a network trains: exact at chosen steps, and as the run itself estimates it."""

from .design import NoiseGrowth

__all__ = ["NoiseGrowth"]
