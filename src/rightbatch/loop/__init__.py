"""Your own training loop, and the step it is made of; `fit` runs on it too."""

from .auto_batch import AutoBatch
from .callback import Observer
from .per_sample import per_sample

__all__ = ["AutoBatch", "Observer", "per_sample"]
