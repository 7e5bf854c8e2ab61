"""Whether the batch size that `probe` advises is the one that brute force finds fastest."""

from .design import ProbeRegret

__all__ = ["ProbeRegret"]
