"""The report of a run and the live view. matplotlib and rich are imported on first use."""

from .page import write_report
from .terminal import Progress

__all__ = ["Progress", "write_report"]
