"""SGD, momentum in two notations, RMSProp and Adam over batch sizes, tuned at each; beside those without a rate."""

from .design import Optimizers

__all__ = ["Optimizers"]
