"""Big Batch in its three forms beside tuned SGD, decayed SGD and Adadelta, in passes over the data."""

from .design import BigBatches

__all__ = ["BigBatches"]
