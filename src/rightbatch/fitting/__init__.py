"""Training in one call, on the loop that is also yours: arguments, evaluation, stopping, checkpoints."""

from .training import Run, fit

__all__ = ["Run", "fit"]
