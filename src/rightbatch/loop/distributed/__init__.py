"""Several processes that take the same steps: shares, gradients, records and sharded models."""

from .ending import end_process_group

__all__ = ["end_process_group"]
