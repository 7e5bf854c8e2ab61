"""What batch size should I use? Measured in half a minute, leaving no trace."""

from .advice import Advice
from .run import probe
from .spectra import feature_spectrum, kernel_spectrum

__all__ = ["Advice", "feature_spectrum", "kernel_spectrum", "probe"]
