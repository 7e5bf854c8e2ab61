"""How far parameters come from where they started, in equal examples and in equal steps."""

from .design import StartDistance

__all__ = ["StartDistance"]
