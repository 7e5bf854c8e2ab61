"""The loop: yours (`AutoBatch`) and ours (`fit`), on one engine."""

from .auto_batch import AutoBatch
from .fitting import Run, fit
from .observer import Observer
from .per_sample import per_sample

__all__ = ["AutoBatch", "Observer", "Run", "fit", "per_sample"]
