"""Training in one call, on the loop that is also yours: arguments, evaluation, stopping, checkpoints."""

from .fit import Run, fit

__all__ = ["Run", "fit"]
