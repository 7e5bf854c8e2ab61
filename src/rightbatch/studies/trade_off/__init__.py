"""The trade-off between steps and samples, the critical batch, and the batch that takes the least time."""

from .design import TradeOff

__all__ = ["TradeOff"]
