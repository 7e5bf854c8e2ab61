"""What batch size should I use? Measured in half a minute, leaving no trace."""

from .advice import Advice
from .run import probe

__all__ = ["Advice", "probe"]
