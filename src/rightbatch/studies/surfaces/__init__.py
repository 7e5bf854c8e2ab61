"""A ravine, a saddle and a plateau: what batch size and optimizer do on each."""

from .design import Surfaces

__all__ = ["Surfaces"]
