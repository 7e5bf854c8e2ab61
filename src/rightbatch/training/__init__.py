"""The loop: yours (`AutoBatch`) and ours (`fit`), on one engine."""

from .auto_batch import AutoBatch, Observer
from .fit import Run, fit

__all__ = ["AutoBatch", "Observer", "Run", "fit"]
