"""Where a model fits its data exactly: what a batch is worth below and above the critical size."""

from .design import InterpolationRegimes

__all__ = ["InterpolationRegimes"]
