"""Stochastic, mini-batch and batch gradient descent on three blobs, and what the automatic mode does there."""

from .design import BatchForms

__all__ = ["BatchForms"]
