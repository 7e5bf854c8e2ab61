"""Several processes that take the same steps: shares, gradients, records and sharded models."""
