"""Your own training loop, and the step it is made of; `fit` runs on it too."""

from .auto_batch import AutoBatch
from .callback import Callback
from .per_sample import per_sample

__all__ = ["AutoBatch", "Callback", "per_sample"]
