"""A learning rate found at one batch size, taken to larger ones: left alone, scaled, or scaled by the gain."""

from .design import RateScaling

__all__ = ["RateScaling"]
