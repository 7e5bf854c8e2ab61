"""Growing the batch where a schedule would decay the rate, at equal epochs: AdaBatch, increase-not-decay, Seesaw."""

from .design import Schedules

__all__ = ["Schedules"]
