"""Short measurements on a model, which they leave unchanged: batch size, learning rate, critical batch size."""

from .advice import Advice
from .branching import Branch, CriticalBatch, critical_batch, warm_up
from .rate_curve import RateCurve
from .rate_finder import find_lr
from .run import probe
from .spectra import feature_spectrum, kernel_spectrum

__all__ = [
    "Advice",
    "Branch",
    "CriticalBatch",
    "RateCurve",
    "critical_batch",
    "feature_spectrum",
    "find_lr",
    "kernel_spectrum",
    "probe",
    "warm_up",
]
