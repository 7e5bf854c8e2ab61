"""How far parameters come from where they started, in equal samples and in equal steps."""

from .design import StartDistance

__all__ = ["StartDistance"]
