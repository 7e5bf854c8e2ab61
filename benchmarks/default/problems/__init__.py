"""The problems, in three parts; importing this registers them."""

from . import confirmation, design, sealed

__all__ = ["confirmation", "design", "sealed"]
