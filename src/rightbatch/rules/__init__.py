"""The batch-size and learning-rate rules, one file each; none imports torch."""

from . import batch_size, lr, recipes

__all__ = ["batch_size", "lr", "recipes"]
